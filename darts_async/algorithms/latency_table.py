"""Per-token latency of a whole run by concurrency: what a twin of the run is calibrated with. Pure, bounded.

Buckets of concurrency are 1, 2, ... 8, then eight to every doubling: fine enough for straight lines between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["LatencyTable"]

_EXACT: Final = 8
_PER_DOUBLING: Final = 8
_PREFIX: Final = "token_s"


class LatencyTable:
    """Sums of samples by bucket."""

    def __init__(self) -> None:
        self._sums: dict[int, list[float]] = {}
        """Bucket to number of samples, sum of concurrencies, sum of seconds."""

    def add(self, concurrency: Iterable[float], per_token_s: Iterable[float]) -> None:
        """Take samples: how many decoded, and seconds per token of one of them."""
        for running, seconds in zip(concurrency, per_token_s, strict=True):
            sums = self._sums.setdefault(_bucket(running), [0.0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += running
            sums[2] += seconds

    def points(self) -> list[tuple[float, float, int]]:
        """Return (mean concurrency, mean seconds per token, samples), by rising concurrency."""
        return [(sums[1] / sums[0], sums[2] / sums[0], int(sums[0])) for _, sums in sorted(self._sums.items())]

    def summary(self) -> dict[str, float]:
        """Return the points as a role reports them; `of_summary` reads them."""
        return {
            f"{_PREFIX}/{number}/{what}": float(value)
            for number, point in enumerate(self.points())
            for what, value in zip(("concurrency", "seconds", "samples"), point, strict=True)
        }

    @classmethod
    def of_summary(cls, summary: Mapping[str, float]) -> LatencyTable:
        """Return the table that a role reported."""
        table = cls()
        number = 0
        while (seconds := summary.get(f"{_PREFIX}/{number}/seconds")) is not None:
            running = summary[f"{_PREFIX}/{number}/concurrency"]
            samples = summary[f"{_PREFIX}/{number}/samples"]
            table.merge([(running, seconds, int(samples))])
            number += 1
        return table

    def merge(self, points: Iterable[tuple[float, float, int]]) -> None:
        """Add another table's points."""
        for running, seconds, samples in points:
            sums = self._sums.setdefault(_bucket(running), [0.0, 0.0, 0.0])
            sums[0] += samples
            sums[1] += samples * running
            sums[2] += samples * seconds


def _bucket(running: float) -> int:
    if running <= _EXACT:
        return round(running)
    return _EXACT + math.ceil(_PER_DOUBLING * math.log2(running / _EXACT) - 1e-9)
