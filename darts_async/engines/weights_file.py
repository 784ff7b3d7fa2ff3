"""Names and shapes in safetensors files, read from their headers: no torch, no tensor data.

What a published version must look like is what the model folder looks like; a file that differs is refused before an
engine is touched.

Of a folder, those files count that transformers and vLLM load: `model.safetensors`, else those that its index lists,
else all.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from darts_async.errors import ProtocolError

Shapes: TypeAlias = dict[str, tuple[int, ...]]
"""Parameter name to shape."""

INDEX: Final = "model.safetensors.index.json"
_WHOLE: Final = "model.safetensors"
_MAX_HEADER_BYTES: Final = 100_000_000  # the format's own bound
_TIED: Final = "lm_head.weight"


class Entry(msgspec.Struct, frozen=True):
    """One tensor, as the header describes it."""

    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """First byte and the one behind the last, from `Header.data_start`."""
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """Of a file whose length is what the header says."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    """What the writer put beside the tensors."""
    data_start: int
    """Where the tensors' bytes begin."""


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of one safetensors file. Raises `ProtocolError` when it is missing or not such a file."""
    return {name: entry.shape for name, entry in read_header(path).entries.items()}


def read_header(path: Path) -> Header:
    """Return what one safetensors file says it holds. Raises `ProtocolError` when it is missing or not such a file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= _MAX_HEADER_BYTES:
                raise ProtocolError(f"{path} is not a safetensors file: its header would be {size} bytes")
            header = msgspec.json.decode(file.read(size), type=dict[str, Any])
            metadata = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
            entries = msgspec.convert(header, dict[str, Entry])
            end = 8 + size + max((entry.data_offsets[1] for entry in entries.values()), default=0)
            if (actual := os.fstat(file.fileno()).st_size) != end:
                raise ProtocolError(f"{path} is cut off or not complete yet: {actual} of {end} bytes")
            return Header(entries, metadata, 8 + size)
    except OSError as error:
        raise ProtocolError(f"cannot read the weights file {path}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{path} is not a safetensors file: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up a model folder. Raises `ProtocolError` when there are none, or not all
    that the index lists."""
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    if not (folder / INDEX).is_file():
        if files := sorted(folder.glob("*.safetensors")):
            return files
        raise ProtocolError(f"{folder} has no safetensors file")
    try:
        listed = msgspec.json.decode((folder / INDEX).read_bytes(), type=_Index).weight_map.values()
    except (OSError, msgspec.MsgspecError) as error:
        raise ProtocolError(f"{folder / INDEX} cannot be read: {error}") from error
    names = sorted(set(listed))
    if outside := [name for name in names if Path(name).name != name]:
        raise ProtocolError(f"{folder / INDEX} lists {outside[0]}, which is not in the folder")
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise ProtocolError(f"{folder} lacks {_some('file', absent).strip()} of those that {INDEX} lists")
    return [folder / name for name in names]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def model_shapes(folder: Path) -> Shapes:
    """Return the shapes of a model folder, all its safetensors files together. `ProtocolError` when it has none."""
    shapes: Shapes = {}
    for file in weight_files(folder):
        shapes.update(read_shapes(file))
    return shapes


def num_weights(folder: Path) -> int:
    """Return the number of a model folder's weights, in whatever type they are. Raises `ProtocolError`."""
    return sum(math.prod(shape) for shape in model_shapes(folder).values())


def tied_embeddings(folder: Path) -> bool:
    """Return whether the model's output layer is its embedding (then files may carry it once or twice).

    Models with several parts keep their language model's settings under `text_config`. Where neither says, the files
    do: a model without an output layer of its own in them is tied (Gemma's configs leave the key out).
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        if isinstance(tied := part.get("tie_word_embeddings"), bool):
            return tied
    return _TIED not in model_shapes(folder)


def check_weights(path: Path, expected: Shapes, *, tied: bool) -> None:
    """Raise `ProtocolError` unless the file (or model folder) holds exactly the expected parameters in their shapes."""
    found = model_shapes(path) if path.is_dir() else read_shapes(path)
    optional = {_TIED} if tied else set()
    missing = sorted(expected.keys() - found.keys() - optional)
    unknown = sorted(found.keys() - expected.keys() - optional)
    if missing or unknown:
        raise ProtocolError(
            f"{path} does not hold this model's parameters: {_some('missing', missing)}{_some('unknown', unknown)}"
        )
    for name, shape in found.items():
        if name in expected and shape != expected[name]:
            raise ProtocolError(f"{path}: {name} has shape {shape} where the model has {expected[name]}")


def _some(label: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) "
