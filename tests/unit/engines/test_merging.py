"""W0 + scale * B A: by hand, over files in shards, in both types; and what is written is a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.engines.lora_file import metadata_of, part_names
from darts_async.engines.weights_file import model_shapes, num_weights, weight_files
from darts_async.errors import ProtocolError

pytestmark = pytest.mark.torch
A, B = part_names("m.q_proj")


def _adapter(scale: float = 0.5) -> Any:
    import torch

    from darts_async.engines.merging import Adapter

    return Adapter({A: torch.tensor([[1.0, 2.0]]), B: torch.tensor([[3.0], [0.0], [-1.0]])}, scale)


def _base(folder: Path, *, shards: int = 1) -> Path:
    """Numbers that bfloat16 holds exactly."""
    import torch
    from safetensors.torch import save_file

    weight = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]], dtype=torch.bfloat16)
    parts = [{"m.q_proj.weight": weight}, {"m.norm.weight": torch.ones(2, dtype=torch.bfloat16), "n": torch.arange(3)}]
    folder.mkdir()
    if shards == 1:
        save_file(parts[0] | parts[1], folder / "model.safetensors")
    else:
        places = {}
        for number, part in enumerate(parts, 1):
            name = f"model-{number:05d}-of-00002.safetensors"
            save_file(part, folder / name)
            places |= dict.fromkeys(part, name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        save_file(parts[0], folder / "consolidated.safetensors")  # the same weights in another form: not of the index
    (folder / "config.json").write_text('{"model_type": "llama", "dtype": "bfloat16"}')
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_by_hand(tmp_path: Path, shards: int) -> None:
    import torch

    from darts_async.engines.merging import merged_tensors

    base = _base(tmp_path / "base", shards=shards)
    merged = dict(merged_tensors(base, _adapter()))
    assert merged.keys() == {"m.q_proj.weight", "m.norm.weight", "n"}
    assert merged["m.q_proj.weight"].tolist() == [[11.5, 23.0], [30.0, 40.0], [49.5, 59.0]]
    assert merged["m.q_proj.weight"].dtype == torch.float32
    assert merged["m.norm.weight"].dtype == torch.bfloat16 and merged["n"].tolist() == [0, 1, 2]
    narrow = dict(merged_tensors(base, _adapter(), dtype=torch.bfloat16))["m.q_proj.weight"]
    assert narrow.dtype == torch.bfloat16 and narrow.tolist() == [[11.5, 23.0], [30.0, 40.0], [49.5, 59.0]]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_what_is_served(tmp_path: Path, shards: int, dtype: str) -> None:
    import torch

    from darts_async.engines.merging import folder_tensors, merged_tensors, write_merged

    base, out = _base(tmp_path / "base", shards=shards), tmp_path / "out"
    out.mkdir()
    write_merged(out, base, _adapter(), getattr(torch, dtype))
    assert model_shapes(out) == model_shapes(base) and len(weight_files(out)) == shards
    assert num_weights(out) == 6 + 2 + 3
    served = {name: t.to(getattr(torch, dtype)) for name, t in merged_tensors(base, _adapter()) if name != "n"}
    for name, tensor in folder_tensors(out):
        assert name == "n" or (tensor.dtype == getattr(torch, dtype) and torch.equal(tensor, served[name]))
    assert json.loads((out / "config.json").read_text()) == {"model_type": "llama", "dtype": dtype}


def test_a_weight_that_is_not_there_is_an_error_not_silence(tmp_path: Path) -> None:
    import torch

    from darts_async.engines.merging import Adapter, merged_tensors, write_merged

    names = part_names("m.absent")
    stranger = Adapter({names[0]: torch.ones(1, 2), names[1]: torch.ones(3, 1)}, 1.0)
    base = _base(tmp_path / "base")
    with pytest.raises(ProtocolError, match=r"no m\.absent\.weight"):
        dict(merged_tensors(base, stranger))
    (tmp_path / "out").mkdir()
    with pytest.raises(ProtocolError, match=r"no m\.absent\.weight"):
        write_merged(tmp_path / "out", base, stranger, torch.float32)


def test_an_adapter_comes_back_from_its_file(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from darts_async.engines.merging import Adapter

    tensors = {A: torch.tensor([[1.0, 2.0]]), B: torch.tensor([[3.0], [0.0], [-1.0]])}
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata_of(0.5, "mark"))
    weight = torch.zeros(3, 2)
    assert torch.equal(
        Adapter.read(tmp_path / "a.safetensors").merge("m.q_proj.weight", weight),
        _adapter().merge("m.q_proj.weight", weight),
    )
    assert weight.abs().sum() == 0  # the base model's own is left alone


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.floats(-4, 4), st.integers(0, 2**31))
def test_a_merged_layer_is_the_layer_with_its_adapter(rows: int, columns: int, rank: int, scale: float, seed: int):
    import torch

    from darts_async.engines.merging import Adapter

    draw = torch.Generator().manual_seed(seed)
    w, a, b, x = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((rows, columns), (rank, columns), (rows, rank), (7, columns))
    )
    merged = Adapter({A: a, B: b}, scale).merge("m.q_proj.weight", w)
    torch.testing.assert_close(x @ merged.T, x @ w.T + scale * (x @ a.T) @ b.T, atol=1e-12, rtol=1e-12)
