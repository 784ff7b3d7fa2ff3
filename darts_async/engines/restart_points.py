"""Checkpoints that training can go on from, found without loading them: no torch, no tensor data.

Invariant: what is returned has weights and a training state that are as long as their headers say, of the version that
the folder's name says; whether they are this model's is for whoever loads them to find out.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Final

import msgspec

from darts_async.engines.lora_file import FILE as ADAPTER_FILE
from darts_async.engines.lora_file import FOLDER as ADAPTER_FOLDER
from darts_async.engines.weights_file import model_shapes, read_shapes
from darts_async.errors import ProtocolError

__all__ = ["FOLDER", "FORMAT", "HEADER", "MAX_HEADER_BYTES", "TENSORS", "restart_points"]

_log = logging.getLogger(__name__)

FOLDER: Final = "training_state"
"""Within a checkpoint: engines look for weights in the checkpoint's own folder only."""
FORMAT: Final = 1
HEADER: Final = "header.json"
TENSORS: Final = "tensors.safetensors"
MAX_HEADER_BYTES: Final = 100_000_000
_NAME: Final = re.compile(r"^step_(\d+)$")


class _Position(msgspec.Struct):
    format: int
    version: Annotated[int, msgspec.Meta(ge=0)]


def restart_points(*folders: Path) -> list[tuple[int, Path]]:
    """Return (version, checkpoint) of those in these folders that can be gone on from, the latest first; of the same
    version, in the order of the folders. Damaged ones are logged and left out."""
    found = []
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            name = _NAME.match(path.name)
            if name is None or not (path / FOLDER).is_dir():
                continue  # without a training state it is an export
            try:
                _check(path, int(name[1]))
            except ProtocolError as error:
                _log.warning("%s cannot be gone on from: %s", path, error)
            else:
                found.append((int(name[1]), path))
    return sorted(found, key=lambda point: -point[0])


def _check(path: Path, version: int) -> None:
    header = path / FOLDER / HEADER
    try:
        if header.stat().st_size > MAX_HEADER_BYTES:
            raise ProtocolError(f"{header} is too long")
        position = msgspec.json.decode(header.read_bytes(), type=_Position)
    except OSError as error:
        raise ProtocolError(f"cannot read {header}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{header}: {error}") from error
    if position.format != FORMAT or position.version != version:
        raise ProtocolError(f"{header} is of format {position.format} and version {position.version}")
    adapter = path / ADAPTER_FOLDER / ADAPTER_FILE
    if adapter.is_file():  # then it is what training goes on from; the model beside it is an export
        read_shapes(adapter)
    else:
        model_shapes(path)
    read_shapes(path / FOLDER / TENSORS)
