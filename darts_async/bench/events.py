"""What the process that runs cells tells the one that started it: one JSON object a line, typed on both ends."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec


class EngineReady(msgspec.Struct, frozen=True, tag=True):
    """The shared engine serves."""

    wall_s: float
    """From the start of the process."""


class CellStarted(msgspec.Struct, frozen=True, tag=True):
    """A cell begins; from here on a failure is the cell's."""

    name: str


class CellStep(msgspec.Struct, frozen=True, tag=True):
    """A learner step of the running cell is complete."""

    name: str
    step: int
    """From 0."""


class CellEnded(msgspec.Struct, frozen=True, tag=True):
    """A cell is over and its summary is written."""

    name: str
    status: Literal["done", "failed", "interrupted"]
    reason: str = ""


class CellScored(msgspec.Struct, frozen=True, tag=True):
    """A checkpoint of the cell was scored on the held-out prompts, behind its run."""

    name: str
    version: int


Event: TypeAlias = EngineReady | CellStarted | CellStep | CellScored | CellEnded

_DECODER: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """Return the event's line."""
    return msgspec.json.encode(event) + b"\n"


def decode(line: bytes) -> Event:
    """Read a line. Raises `msgspec.DecodeError` (or its `ValidationError`) for anything else."""
    return _DECODER.decode(line)
