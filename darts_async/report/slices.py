"""Sums over time or steps of which nobody knows beforehand how far they go, in memory that does not grow.

When there are too many slices, two neighbours become one and the width doubles: every slice covers the same width, and
nothing that was entered is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, Self, TypeVar

__all__ = ["Slices"]


class _Sum(Protocol):
    def merge(self, other: Self, /) -> None:
        """Take in what a later neighbour holds."""


T = TypeVar("T", bound=_Sum)


class Slices(Generic[T]):
    """Sums by position; at most `most` of them."""

    def __init__(self, make: Callable[[], T], *, most: int, width: float = 1.0) -> None:
        if most < 2 or width <= 0:
            raise ValueError(f"{most} slices of {width}")
        self._make = make
        self._most = most
        self.width = width
        """Of every slice now: a power of two times the first."""
        self._sums: dict[int, T] = {}

    def at(self, position: float) -> T:
        """Return the sum of the slice that covers a position (not negative)."""
        while (index := int(position / self.width)) >= self._most:
            self._double()
        if index not in self._sums:
            self._sums[index] = self._make()
        return self._sums[index]

    def __iter__(self) -> Iterator[tuple[float, T]]:
        """Each slice's start and sum, in order; slices in which nothing was entered are left out."""
        for index in sorted(self._sums):
            yield index * self.width, self._sums[index]

    def __len__(self) -> int:
        return len(self._sums)

    def _double(self) -> None:
        self.width *= 2
        halves, self._sums = self._sums, {}
        for index in sorted(halves):
            if index // 2 in self._sums:
                self._sums[index // 2].merge(halves[index])
            else:
                self._sums[index // 2] = halves[index]
