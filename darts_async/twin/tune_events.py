"""What the process that searches is given, and what it tells: one JSON object a line, typed on both ends."""

from __future__ import annotations

from typing import Final

import msgspec

from darts_async.twin.search_space import Trial

__all__ = ["TunePlan", "decode", "encode"]


class TunePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One search."""

    config: str
    """Path of a resolved config."""
    twin: str
    """Name or path of a profile."""
    knobs: tuple[str, ...]
    trials: int
    time_limit_s: float
    """No trial begins later."""
    steps: int
    """Learner steps of a trial."""
    seed: int = 0
    max_staleness: float | None = None
    """Of what is recommended."""
    finalists: int = 6
    """So many of the fastest settings are run again with `further_seeds` other seeds, whatever the time limit."""
    further_seeds: int = 2


_DECODER: Final = msgspec.json.Decoder(Trial)


def encode(trial: Trial) -> bytes:
    """Return the trial's line. One that was told before, with its number, is told again with more runs behind it."""
    return msgspec.json.encode(trial) + b"\n"


def decode(line: bytes) -> Trial:
    """Read a line. Raises `msgspec.DecodeError`."""
    return _DECODER.decode(line)
