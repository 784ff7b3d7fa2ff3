"""How long groups wait between the roles, from the arrows that a trace draws along each of them.

Dispatched at the allocator, complete at the selector, taken up by the learner: the first stretch is the time in flight,
the second the time in the queue of ready groups. Memory: the groups under way, and sums by slice of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from darts_async.report.slices import Slices

__all__ = ["AgePoint", "GroupAges"]

MAX_POINTS: Final = 240
FIRST_WIDTH_S: Final = 0.25
MAX_UNDER_WAY: Final = 1 << 16
"""Groups beyond this many are not followed."""


class AgePoint(NamedTuple):
    """Groups that the learner took up in a slice of time; seconds."""

    at_s: float
    """Middle of the slice."""
    in_flight: float
    """Mean from dispatch until complete."""
    ready: float
    """Mean from complete until taken up."""
    ready_max: float


@dataclass(slots=True)
class _Sum:
    count: int = 0
    in_flight: float = 0.0
    ready: float = 0.0
    ready_max: float = 0.0

    def merge(self, other: _Sum) -> None:
        self.count += other.count
        self.in_flight += other.in_flight
        self.ready += other.ready
        self.ready_max = max(self.ready_max, other.ready_max)


class GroupAges:
    """Follows every group. Times ascend but for what is at the same moment."""

    def __init__(self) -> None:
        self._dispatched: dict[int | str, float] = {}
        self._complete: dict[int | str, float] = {}
        self._sums = Slices(_Sum, most=MAX_POINTS, width=FIRST_WIDTH_S)

    def seen(self, group: int | str, role: str, at_s: float) -> None:
        """An arrow of the group touches a role."""
        if role.startswith("allocator"):
            if len(self._dispatched) < MAX_UNDER_WAY:
                self._dispatched[group] = at_s
        elif role.startswith("selector"):
            if group in self._dispatched:
                self._complete[group] = at_s
        elif role.startswith("learner"):
            began, complete = self._dispatched.pop(group, None), self._complete.pop(group, None)
            if began is not None and complete is not None and at_s >= 0:
                waited = max(0.0, at_s - complete)
                self._sums.at(at_s).merge(_Sum(1, max(0.0, complete - began), waited, waited))

    def over(self, group: int | str) -> None:
        """The group's last arrow ended elsewhere: it was an evaluation's, or cut off."""
        self._dispatched.pop(group, None)
        self._complete.pop(group, None)

    def points(self) -> list[AgePoint]:
        """In order of time."""
        middle = self._sums.width / 2
        return [
            AgePoint(start + middle, found.in_flight / found.count, found.ready / found.count, found.ready_max)
            for start, found in self._sums
        ]
