"""What a published file must look like, told from its header alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.engines.weights_file import check_weights, model_shapes, read_shapes, tied_embeddings
from darts_async.errors import ProtocolError

SHAPES = {"a": (2, 3), "b": (4,)}


def write(path: Path, shapes: dict[str, tuple[int, ...]], *, cut: int = 0) -> Path:
    """A safetensors file by hand: header length, header, float32 zeros."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes((len(text).to_bytes(8, "little") + text + bytes(end))[: 8 + len(text) + end - cut])
    return path


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    assert read_shapes(write(tmp_path / "w.safetensors", SHAPES)) == SHAPES


def test_a_folders_files_are_read_together(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", {"a": (2, 3)})
    write(tmp_path / "two.safetensors", {"b": (4,)})
    assert model_shapes(tmp_path) == SHAPES
    with pytest.raises(ProtocolError, match="no safetensors"):
        model_shapes(tmp_path / "nowhere")


def test_the_quickstart_policy_is_tied() -> None:
    shapes = model_shapes(QUICKSTART_POLICY)
    assert tied_embeddings(QUICKSTART_POLICY)
    assert "lm_head.weight" not in shapes
    assert shapes["model.embed_tokens.weight"][1] == shapes["model.norm.weight"][0]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"a": (2, 3)}, "1 missing .b"),
        ({**SHAPES, "c": (1,), "d": (1,), "e": (1,), "f": (1,)}, r"4 unknown .c, d, e, \.\.\."),
        ({"a": (3, 2), "b": (4,)}, r"a has shape \(3, 2\) where the model has \(2, 3\)"),
        ({**SHAPES, "lm_head.weight": (2, 3)}, "1 unknown .lm_head"),
    ],
)
def test_a_file_of_another_model_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        check_weights(write(tmp_path / "w.safetensors", shapes), SHAPES, tied=False)


def test_a_tied_output_layer_may_be_there_or_not(tmp_path: Path) -> None:
    check_weights(write(tmp_path / "w.safetensors", SHAPES), SHAPES, tied=False)
    with_head = {**SHAPES, "lm_head.weight": (2, 3)}
    check_weights(write(tmp_path / "more.safetensors", with_head), SHAPES, tied=True)
    check_weights(write(tmp_path / "less.safetensors", SHAPES), with_head, tied=True)


def test_what_is_not_a_whole_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="cannot read"):
        read_shapes(tmp_path / "missing.safetensors")
    with pytest.raises(ProtocolError, match="cut off"):
        read_shapes(write(tmp_path / "cut.safetensors", SHAPES, cut=1))
    for content in (b"", b"\xff" * 16, (4).to_bytes(8, "little") + b"abcd", (9).to_bytes(8, "little") + b'{"a": 1} '):
        path = tmp_path / "other.safetensors"
        path.write_bytes(content)
        with pytest.raises(ProtocolError, match="not a safetensors file"):
            read_shapes(path)
