"""How often which length: exact for short ones, to about a hundredth for long ones, so that memory has a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["Histogram"]

_EXACT: Final = 128
"""Lengths below this are told apart, one by one."""
_PER_OCTAVE: Final = 64
"""Buckets from a length to its double above that."""


class Histogram:
    """Counts of whole numbers that are not negative."""

    __slots__ = ("_counts", "count", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0

    def add(self, value: int) -> None:
        """Enter a value."""
        bucket = value if value < _EXACT else _EXACT + int(_PER_OCTAVE * math.log2(value / _EXACT))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.total += value

    def merge(self, other: Histogram) -> None:
        """Enter all that another one holds."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.total += other.total

    @property
    def mean(self) -> float:
        """Exact; NaN over nothing."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, share: float) -> float:
        """The smallest value that `share` of the entries do not exceed (to the width of a bucket); NaN over nothing."""
        due, seen = share * self.count, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= due:
                return _edge(bucket) if bucket < _EXACT else (_edge(bucket) + _edge(bucket + 1)) / 2
        return math.nan

    def shares(self, edges: Sequence[float]) -> list[float]:
        """Share of the entries between each edge and the next; a bucket that an edge cuts is divided in proportion.

        `edges` ascend. What lies at or above the last one is counted into the last bin.
        """
        shares = [0.0] * (len(edges) - 1)
        for bucket, count in self._counts.items():
            low, high = _edge(bucket), _edge(bucket + 1)
            for index in range(len(shares)):
                above = math.inf if index == len(shares) - 1 else edges[index + 1]
                overlap = min(high, above) - max(low, edges[index])
                if overlap > 0:
                    shares[index] += count * overlap / (high - low)
        return [share / self.count for share in shares] if self.count else shares


def _edge(bucket: int) -> float:
    """The smallest value of a bucket."""
    return float(bucket) if bucket < _EXACT else _EXACT * 2.0 ** ((bucket - _EXACT) / _PER_OCTAVE)
