"""What a checkpoint holds beside the weights, so that training goes on from it: optimiser, random numbers, position.

A folder of two files: tensors as safetensors, and a JSON header that says which policy version they belong to and what
each tensor must look like. The learning-rate schedule has no state of its own, it follows from the version. Never
pickled: a checkpoint may come from somebody else. Invariant: what does not agree with its header is refused whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from darts_async.engines.restart_points import FOLDER, FORMAT, HEADER, MAX_HEADER_BYTES, TENSORS
from darts_async.errors import ProtocolError

__all__ = ["FOLDER", "TrainingState", "load_training_state", "random_state", "restore_random", "save_training_state"]

_OPTIMISER, _RANDOM = "optimiser.", "random."


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    version: Annotated[int, msgspec.Meta(ge=0)]
    bad_steps: Annotated[int, msgspec.Meta(ge=0)]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Name to type and shape."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a trainer stands."""

    version: int
    """Policy version of the weights beside it."""
    bad_steps: int = 0
    """Steps in a row, up to now, that were skipped."""
    optimiser: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """`StepOptimiser.state_dict`."""
    random: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """`random_state`."""


def save_training_state(folder: Path, state: TrainingState) -> None:
    """Write it into a folder, which is made. Neither atomic nor synced: the checkpoint around it is."""
    folder.mkdir(parents=True)
    tensors = {f"{_OPTIMISER}{name}": tensor for name, tensor in state.optimiser.items()}
    tensors |= {f"{_RANDOM}{name}": tensor for name, tensor in state.random.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = _Header(FORMAT, state.version, state.bad_steps, _layout(tensors))
    save_file(tensors, folder / TENSORS)
    (folder / HEADER).write_bytes(msgspec.json.format(msgspec.json.encode(header)) + b"\n")


def load_training_state(folder: Path) -> TrainingState:
    """Read it back, on the CPU. Raises `ProtocolError` when it is missing, damaged, or of another format."""
    try:
        if (size := (folder / HEADER).stat().st_size) > MAX_HEADER_BYTES:
            raise ProtocolError(f"{folder / HEADER} has {size} bytes")
        header = msgspec.json.decode((folder / HEADER).read_bytes(), type=_Header)
        if header.format != FORMAT:
            raise ProtocolError(f"{folder} has format {header.format}, this version reads {FORMAT}")
        tensors = load_file(folder / TENSORS)
    except OSError as error:
        raise ProtocolError(f"cannot read the training state {folder}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, SafetensorError) as error:
        raise ProtocolError(f"{folder} is not a training state: {error}") from error
    found = _layout(tensors)
    if found != header.tensors:
        names = found.keys() | header.tensors.keys()
        name = min(name for name in names if found.get(name) != header.tensors.get(name))
        raise ProtocolError(
            f"{folder}: tensor {name} is {found.get(name, 'missing')} where the header says "
            f"{header.tensors.get(name, 'nothing')}"
        )
    return TrainingState(
        version=header.version,
        bad_steps=header.bad_steps,
        optimiser=_part(tensors, _OPTIMISER),
        random=_part(tensors, _RANDOM),
    )


def random_state() -> dict[str, torch.Tensor]:
    """Return torch's generators, uint8: `cpu`, and `cuda.<index>` for each device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_random(states: Mapping[str, torch.Tensor]) -> None:
    """Put the generators back that exist here. Raises `ProtocolError` for a state that is none."""
    try:
        if "cpu" in states:
            torch.set_rng_state(states["cpu"])
        for index in range(torch.cuda.device_count()):
            if (state := states.get(f"cuda.{index}")) is not None:
                torch.cuda.set_rng_state(state, index)
    except (RuntimeError, TypeError) as error:
        raise ProtocolError(f"not the state of a random number generator: {error}") from error


def _layout(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in sorted(tensors.items())}


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
