"""Names and shapes in safetensors files, read from their headers: no torch, no tensor data.

What a published version must look like is what the model folder looks like; a file that differs is refused before an
engine is touched.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from darts_async.errors import ProtocolError

Shapes: TypeAlias = dict[str, tuple[int, ...]]
"""Parameter name to shape."""

_MAX_HEADER_BYTES: Final = 100_000_000  # the format's own bound
_TIED: Final = "lm_head.weight"


class _Entry(msgspec.Struct):
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of one safetensors file. Raises `ProtocolError` when it is missing or not such a file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= _MAX_HEADER_BYTES:
                raise ProtocolError(f"{path} is not a safetensors file: its header would be {size} bytes")
            header = msgspec.json.decode(file.read(size), type=dict[str, Any])
            header.pop("__metadata__", None)
            entries = msgspec.convert(header, dict[str, _Entry])
            end = 8 + size + max((entry.data_offsets[1] for entry in entries.values()), default=0)
            if (actual := os.fstat(file.fileno()).st_size) != end:
                raise ProtocolError(f"{path} is cut off or not complete yet: {actual} of {end} bytes")
            return {name: entry.shape for name, entry in entries.items()}
    except OSError as error:
        raise ProtocolError(f"cannot read the weights file {path}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{path} is not a safetensors file: {error}") from error


def model_shapes(folder: Path) -> Shapes:
    """Return the shapes of a model folder, all its safetensors files together. `ProtocolError` when it has none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ProtocolError(f"{folder} has no safetensors file")
    shapes: Shapes = {}
    for file in files:
        shapes.update(read_shapes(file))
    return shapes


def tied_embeddings(folder: Path) -> bool:
    """Return whether the model's output layer is its embedding (then files may carry it once or twice)."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("tie_word_embeddings", False))


def check_weights(path: Path, expected: Shapes, *, tied: bool) -> None:
    """Raise `ProtocolError` unless the file holds exactly the expected parameters in their shapes."""
    found = read_shapes(path)
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
