"""What a published file must look like, told from its header alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.engines.weights_file import (
    check_weights,
    model_shapes,
    num_weights,
    read_shapes,
    tied_embeddings,
    weight_files,
)
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


def index(folder: Path, *names: str) -> None:
    listed = {"metadata": {}, "weight_map": {f"t{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed))


def test_of_a_folder_those_files_count_that_others_load(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", {"a": (2, 3)})
    write(tmp_path / "two.safetensors", {"b": (4,)})
    write(tmp_path / "consolidated.safetensors", {"same.in.another.form": (10,)})
    index(tmp_path, "two.safetensors", "one.safetensors", "two.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    assert (model_shapes(tmp_path), num_weights(tmp_path)) == (SHAPES, 10)
    for names, words in (
        (("three.safetensors",), r"lacks 1 file \(three\.safetensors\)"),
        (("../one.safetensors",), "not in the folder"),
    ):
        index(tmp_path, *names)
        with pytest.raises(ProtocolError, match=words):
            weight_files(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ProtocolError, match="cannot be read"):
        weight_files(tmp_path)
    write(tmp_path / "model.safetensors", {"a": (2, 3)})
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize(
    ("config", "head", "tied"),
    [
        ({"tie_word_embeddings": True}, True, True),
        ({"tie_word_embeddings": False}, False, False),
        ({"text_config": {"tie_word_embeddings": True}}, True, True),
        ({}, False, True),
        ({"text_config": None}, True, False),
    ],
)
def test_tied_by_the_config_or_where_it_is_silent_by_the_files(
    tmp_path: Path, config: dict[str, object], head: bool, tied: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    write(tmp_path / "model.safetensors", {"a": (2, 3), **({"lm_head.weight": (2, 3)} if head else {})})
    assert tied_embeddings(tmp_path) is tied


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
