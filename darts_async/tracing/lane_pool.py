"""Lanes for things of one kind that run side by side: each takes the first that is free."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator

from darts_async.tracing.role_trace import Lane, RoleTrace

__all__ = ["LanePool"]


class LanePool:
    """As many as were ever needed at once, counted from 0."""

    def __init__(self, trace: RoleTrace, name: str) -> None:
        self._trace = trace
        self._name = name
        self._free: list[int] = []
        self._num = 0

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Lane]:
        """One for a while."""
        if self._free:
            number = heapq.heappop(self._free)
        else:
            number, self._num = self._num, self._num + 1
        try:
            yield self._trace.lane(f"{self._name} {number}")
        finally:
            heapq.heappush(self._free, number)
