"""What a job (a check, a measurement) tells the process that started it: one JSON object a line, typed on both ends.

Texts are cut to a length, so that no line outgrows the reader's buffer.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from darts_async.algorithms.held_out import HeldOut

__all__ = ["Check", "CheckStatus", "Failure", "HeldOutScores", "JobEvent", "Progressed", "Stage", "decode", "encode"]

CheckStatus: TypeAlias = Literal["pass", "warn", "fail", "skip"]
_MAX_CHARS: Final = 2000


class Stage(msgspec.Struct, frozen=True, tag=True):
    """The job turns to something else."""

    text: str


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """So many parts of the present stage are done."""

    done: int
    total: int


class Check(msgspec.Struct, frozen=True, tag=True):
    """One thing that was looked at."""

    name: str
    status: CheckStatus
    measured: str
    """What was found, with its figures."""
    remedy: str = ""
    """What to do about it, in words; empty where there is nothing to do."""


class HeldOutScores(msgspec.Struct, frozen=True, tag=True):
    """What an evaluation came to."""

    total: HeldOut
    strata: dict[str, HeldOut]
    """The same by difficulty class."""
    tokens_per_s: float
    first_failure: str = ""
    """Why the first sample that failed did."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """The job cannot go on; its log has the whole story."""

    text: str


JobEvent: TypeAlias = Stage | Failure | Progressed | Check | HeldOutScores

_DECODER: Final[msgspec.json.Decoder[JobEvent]] = msgspec.json.Decoder(JobEvent)


def encode(event: JobEvent) -> bytes:
    """Return the event's line."""
    if isinstance(event, Check):
        event = msgspec.structs.replace(event, measured=event.measured[:_MAX_CHARS], remedy=event.remedy[:_MAX_CHARS])
    elif isinstance(event, Stage | Failure):
        event = type(event)(event.text[:_MAX_CHARS])
    return msgspec.json.encode(event) + b"\n"


def decode(line: bytes) -> JobEvent:
    """Read a line. Raises `msgspec.DecodeError` (or its `ValidationError`) for anything else."""
    return _DECODER.decode(line)
