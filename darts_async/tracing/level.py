"""How many of something there are, as spans while the number stays the same, and as a counter.

Cost goes with the changes of the number, not with what the many do meanwhile (their tokens). Changes that follow
each other closely, such as the start of a whole group, are one.
"""

from __future__ import annotations

from typing import Final

from darts_async import clock
from darts_async.tracing.role_trace import RoleTrace

__all__ = ["Level"]

_LEAST_S: Final = 0.005
"""Spans are not cut shorter than this while there is any; an engine step takes longer."""


class Level:
    """One number."""

    def __init__(self, trace: RoleTrace, category: str, counter: str) -> None:
        """Spans are called like their category, on a lane of that name."""
        self._trace = trace
        self._is_on = trace.is_on
        self._lane = trace.lane(category)
        self._category = category
        self._counter = counter
        self._number = 0
        self._since_s = 0.0
        self._flows: list[tuple[int, float]] = []

    def change(self, by: int) -> None:
        """So many more from now on."""
        if not self._is_on:
            return
        now_s, before = clock.now_s(), self._number
        self._number = now = before + by
        if not before:
            self._since_s = now_s
        elif now and now_s - self._since_s < _LEAST_S:
            return
        else:
            name, flows, self._flows = self._category, self._flows, []
            self._lane.span(name, name, self._since_s, now_s, flows=flows, number=before)
            self._trace.counter(self._counter, before, self._since_s)
            self._since_s = now_s
        if not now:
            self._trace.counter(self._counter, 0, now_s)

    def flow(self, flow: int) -> None:
        """A group comes by now."""
        if self._is_on and self._number:
            self._flows.append((flow, clock.now_s()))
