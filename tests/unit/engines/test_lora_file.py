"""Adapters told from their headers: what fits a base model, what does not, and which base model it is."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.config.schema import LearnerSection
from darts_async.engines.lora_file import (
    adapted_modules,
    adapter_bytes,
    base_mark,
    check_adapter,
    is_adapter,
    metadata_of,
    part_names,
    read_scale,
    scale_of,
)
from darts_async.engines.weights_file import model_shapes
from darts_async.errors import ProtocolError

BASE = {"m.q_proj.weight": (6, 4), "m.k_proj.weight": (2, 4), "m.norm.weight": (4,)}
A, B = part_names("m.q_proj")


def _write(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> Path:
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return path


def test_names_are_those_of_peft() -> None:
    assert A == "base_model.model.m.q_proj.lora_A.weight"
    assert is_adapter([A]) and is_adapter(["x", B]) and not is_adapter(BASE)
    assert adapted_modules([B, A, *part_names("m.a"), "m.q_proj.weight"]) == ["m.a", "m.q_proj"]


def test_the_scale_is_alpha_over_rank_and_comes_back_to_the_last_bit() -> None:
    assert scale_of(LearnerSection(lora_rank=8)) == 2.0
    assert scale_of(LearnerSection(lora_rank=3, lora_alpha=1.0)) == 1 / 3
    assert read_scale(metadata_of(1 / 3, "x"), Path("file")) == 1 / 3


def test_an_adapter_of_this_base_model_passes(tmp_path: Path) -> None:
    check_adapter(_write(tmp_path / "a", {A: (3, 4), B: (6, 3)}, metadata_of(2.0, "mark")), BASE, "mark")


@pytest.mark.parametrize(
    ("shapes", "metadata", "words"),
    [
        ({A: (3, 4), B: (6, 3)}, metadata_of(2.0, "other"), "another base model"),
        ({A: (3, 4), B: (6, 3)}, {"lora": '{"base": "mark"}'}, "does not say how"),
        ({A: (3, 4), B: (6, 3)}, metadata_of(math.inf, "mark"), "does not say how"),
        ({A: (3, 4), B: (6, 3)}, {}, "does not say how"),
        ({A: (3, 4)}, metadata_of(2.0, "mark"), "missing times"),
        ({A: (3, 4), B: (6, 2)}, metadata_of(2.0, "mark"), r"\(6, 2\) times \(3, 4\)"),
        ({A: (3, 5), B: (6, 3)}, metadata_of(2.0, "mark"), r"has \(6, 4\)"),
        (dict.fromkeys(part_names("m.norm"), (4, 4)), metadata_of(2.0, "mark"), r"has \(4,\)"),
        (dict.fromkeys(part_names("m.absent"), (4, 4)), metadata_of(2.0, "mark"), "no such weight"),
        ({A: (3, 4), B: (6, 3), "m.norm.weight": (4,)}, metadata_of(2.0, "mark"), "m.norm.weight, which is no part"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str], words: str
) -> None:
    with pytest.raises(ProtocolError, match=words):
        check_adapter(_write(tmp_path / "a", shapes, metadata), BASE, "mark")


def test_the_mark_is_the_same_for_a_copy_and_another_for_other_weights(tmp_path: Path) -> None:
    mark = base_mark(QUICKSTART_POLICY)
    copy = Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "copy"))
    assert base_mark(copy) == mark == base_mark(QUICKSTART_POLICY)
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert base_mark(copy) != mark


def test_the_bytes_of_an_adapter_are_known_before_there_is_one() -> None:
    shapes = model_shapes(QUICKSTART_POLICY)
    layers = {name: shape for name, shape in shapes.items() if name.endswith("proj.weight")}
    queries = [shape for name, shape in layers.items() if name.endswith("q_proj.weight")]
    rank, few = {"lora_rank": 4}, {"lora_rank": 4, "lora_targets": ["q_proj"]}
    config = Config.model_validate({"learner": rank})
    assert adapter_bytes(shapes, config) == 4 * 4 * sum(sum(shape) for shape in layers.values())
    half = Config.model_validate({"learner": few, "model": {"dtype": "bfloat16"}})
    assert adapter_bytes(shapes, half) == 2 * 4 * sum(sum(shape) for shape in queries) > 0
