"""Which group numbers are in use, over all starts of the selector and of the allocator. Pure.

Invariants: numbers only ever increase; a number that an allocator may have used lies below a bound that is in the
ledger before its plan is accepted, so that no later start uses it again, although evaluations leave no other trace
there; whatever is told of a number below `fence` is old news. Memory: the numbers since the fence.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GroupNumbers"]

_RESERVED: Final = 4096
"""Numbers that are reserved in the ledger at a time."""


class GroupNumbers:
    """The numbers of one run."""

    def __init__(self) -> None:
        self.fence = 0
        """Groups with a lower number have nothing left to decode."""
        self.first_free = 0
        """No group has this number or a higher one."""
        self.num_taken = 0
        """Groups ever planned."""
        self._reserved = 0
        self._taken: set[int] = set()
        """Since the fence, so that late messages are told from wrong ones."""

    def restore(self, first_free: int, num_taken: int) -> None:
        """Go on where an earlier start of the selector may have been."""
        self.first_free = self._reserved = first_free
        self.num_taken = num_taken

    def is_known(self, group_id: int) -> bool:
        """Whether a group of this number was planned, or could have been."""
        return group_id < self.fence or group_id in self._taken

    def take(self, group_id: int) -> int | None:
        """A group is planned. Return the bound to be written down, if there is a new one."""
        self._taken.add(group_id)
        self.first_free = max(self.first_free, group_id + 1)
        self.num_taken += 1
        return self._reserve()

    def close_off(self, skip: int = 0) -> int | None:
        """Everything planned so far is over, and so are the next `skip` numbers: plans under them may be on their way.
        Return as `take`."""
        self.first_free += skip
        self.fence = self.first_free
        self._taken.clear()
        return self._reserve()

    def _reserve(self) -> int | None:
        if self.first_free <= self._reserved:
            return None
        self._reserved = self.first_free + _RESERVED
        return self._reserved
