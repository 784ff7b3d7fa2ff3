"""A replica's places: how many candidates it takes, from which start of the allocator, and of which groups. Pure.

The other half of `credits`. Invariants: requests held and credits out are never more than the capacity together,
whichever start of the allocator they belong to; of each start the grants only rise; a request that is not sampled
gives its credit back at once.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from darts_async.errors import ProtocolError

__all__ = ["Places", "Verdict"]

Verdict: TypeAlias = Literal["sample", "over", "void"]
"""Of a request. `over`: nobody waits for its group any more, its credit is free again. `void`: its sender is gone."""


class Places:
    """The books of one start of a replica."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.allocator = 0
        """The start of the allocator that credits are granted to."""
        self.granted = capacity
        """Credits granted to it, ever."""
        self.fence = 0
        """Groups with a lower number are over."""
        self.num_held = 0
        """Requests whose end has not been reported."""
        self.num_requests = 0
        """Taken, ever."""
        self._used = 0

    @property
    def free(self) -> int:
        """Credits that no request has used yet."""
        return self.granted - self._used

    def serve(self, allocator: int) -> bool:
        """Grant credits to this start of the allocator from now on; those that an earlier one has not used are void.
        False if it is not a later one."""
        if allocator <= self.allocator:
            return False
        self.allocator = allocator
        self.granted, self._used = self._capacity - self.num_held, 0
        return True

    def drop_below(self, group_id: int) -> None:
        """Groups below this number are over; the fence never goes back."""
        self.fence = max(self.fence, group_id)

    def is_over(self, group_id: int) -> bool:
        """Whether nobody waits for a group any more."""
        return group_id < self.fence

    def take(self, allocator: int, group_id: int) -> Verdict:
        """A request is here. Raises `ProtocolError` when there was no credit for it."""
        if allocator != self.allocator:
            return "void"
        if not self.free:
            raise ProtocolError(f"request {self._used + 1} came when {self.granted} candidates had been granted")
        self._used += 1
        self.num_requests += 1
        if self.is_over(group_id):
            self.granted += 1
            return "over"
        self.num_held += 1
        return "sample"

    def leave(self) -> None:
        """The end of a request that was held has been reported, or need not be."""
        self.num_held -= 1
        self.granted += 1
