"""Lines of the files under `<run>/trace/`: JSON arrays whose first item says what they are. Times are microseconds
since the file was opened.

Invariant: whatever else a line holds is no record, and is skipped (a killed process leaves half a line).
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

__all__ = [
    "DECODER",
    "ENCODER",
    "VERSION",
    "VIRTUAL",
    "Args",
    "Counter",
    "FileOpened",
    "Instant",
    "Note",
    "ProcessStarted",
    "Record",
    "Span",
    "Value",
    "has_flows",
]

VERSION: Final = 1
VIRTUAL: Final = "virtual"
"""Name of the clock of a run on virtual time, which begins at 0."""

_Number = Annotated[int, msgspec.Meta(ge=0)]
_Text = Annotated[str, msgspec.Meta(max_length=512)]
Value: TypeAlias = int | float | str | None
"""Of an argument; whole numbers stay whole."""
Args: TypeAlias = dict[str, Value] | None


class FileOpened(msgspec.Struct, array_like=True, tag="H", frozen=True):
    """The first line."""

    version: int
    clock: _Text
    """Files with the same one share a clock: of a machine since its start, or `VIRTUAL`."""
    clock_s: float
    """By that clock."""
    wall_s: float
    """The same moment in seconds since 1970; 0 on virtual time."""
    limit_bytes: _Number
    """That the trace may take on disk, `trace.json` included."""


class ProcessStarted(msgspec.Struct, array_like=True, tag="P", frozen=True):
    """A start of a role, before anything else of it."""

    ts: _Number
    process: _Number
    """Its number within the file."""
    name: _Text
    start: _Number
    """Which start of the role it is; 0 is the first."""
    pid: _Number
    """By which the machine knows it."""


class Span(msgspec.Struct, array_like=True, tag="X", frozen=True, gc=False):
    """Something that took time. Spans of a lane neither overlap nor nest, and come in order."""

    ts: _Number
    process: _Number
    lane: _Text
    category: _Text
    name: _Text
    dur: Annotated[int, msgspec.Meta(ge=1)]
    args: Args = None
    flows: Annotated[tuple[tuple[_Number, _Number], ...], msgspec.Meta(max_length=1 << 12)] | None = None
    """Groups that came by, each with the microsecond of the span, in order of time. The last field: see `has_flows`."""


class Instant(msgspec.Struct, array_like=True, tag="i", frozen=True, gc=False):
    """Something that happened."""

    ts: _Number
    process: _Number
    lane: _Text
    category: _Text
    name: _Text
    args: Args = None


class Counter(msgspec.Struct, array_like=True, tag="C", frozen=True, gc=False):
    """A number, from now on."""

    ts: _Number
    process: _Number
    name: _Text
    value: float


class Note(msgspec.Struct, array_like=True, tag="N", frozen=True):
    """Something a person should read."""

    ts: _Number
    process: _Number
    text: _Text


Record: TypeAlias = FileOpened | ProcessStarted | Span | Instant | Counter | Note

ENCODER: Final = msgspec.json.Encoder()
DECODER: Final = msgspec.json.Decoder(Record)


def has_flows(line: bytes) -> bool:
    """Whether a line may be a span with flows: seen from outside, which is much quicker than to decode it."""
    return line.endswith(b"]]]\n")
