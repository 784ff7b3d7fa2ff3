"""`summary.json` as the report reads it: every field may be missing or null, what is unknown is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Score", "Summary", "read_summary"]

MAX_BYTES: Final = 16 << 20
Number = float | None


class Score(msgspec.Struct):
    """Of the held-out set."""

    reward: Number = None
    response_length: Number = None
    policy_version: Number = None


class Scores(msgspec.Struct):
    """Before, during and after."""

    before: Score | None = None
    after: Score | None = None
    during: list[Score] = []


class Ends(msgspec.Struct):
    """Means over the first and the last tenth of the steps."""

    first: Number = None
    last: Number = None


class Idle(msgspec.Struct):
    """Shares of time."""

    generator: Number = None
    learner: Number = None


class Percentiles(msgspec.Struct):
    """Of a latency."""

    p50: Number = None
    p99: Number = None


class MeanAndMax(msgspec.Struct):
    """Of staleness, or of a difference."""

    mean: Number = None
    max: Number = None


class Starvation(msgspec.Struct):
    """Prompts that selection never let through."""

    prompts: Number = None


class Selection(msgspec.Struct):
    """What selection came to."""

    kept_length: Number = None
    generated_length: Number = None
    zero_variance_groups: Number = None
    groups: dict[str, Number] = {}
    starvation: Starvation = msgspec.field(default_factory=Starvation)


class Summary(msgspec.Struct):
    """The file."""

    status: str = ""
    reason: str = ""
    steps: Number = None
    policy_version: Number = None
    wall_s: Number = None
    ended_by: str | None = None
    rollouts: dict[str, Number] = {}
    tokens: dict[str, Number] = {}
    failures: dict[str, Number] = {}
    tokens_saved_estimate: Number = None
    eval: Scores = msgspec.field(default_factory=Scores)
    reward: Ends = msgspec.field(default_factory=Ends)
    response_length: Ends = msgspec.field(default_factory=Ends)
    idle_ratio: Idle = msgspec.field(default_factory=Idle)
    cancel_latency_ms: Percentiles = msgspec.field(default_factory=Percentiles)
    weight_update_ms: Percentiles = msgspec.field(default_factory=Percentiles)
    staleness: MeanAndMax = msgspec.field(default_factory=MeanAndMax)
    logprob_parity: MeanAndMax = msgspec.field(default_factory=MeanAndMax)
    selection: Selection = msgspec.field(default_factory=Selection)
    skipped_steps: Number = None
    restarts: dict[str, Number] = {}
    resumes: Number = None
    warnings: list[str] = []


_decode: Final = msgspec.json.Decoder(Summary).decode


def read_summary(path: Path) -> Summary:
    """Read it. Raises `OSError`, `ValueError` when it is no summary."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return _decode(data)
