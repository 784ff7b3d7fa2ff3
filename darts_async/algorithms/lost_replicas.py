"""Which starts of the generators are over. Pure.

Invariant: a start that is over stays over, and so do all before it: plans, placements and reports of it may still
arrive, in any order, and are recognised whenever they do.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GENERATOR_LOST", "LostReplicas"]

GENERATOR_LOST: Final = "generator_lost"
"""Why a candidate failed whose generator died."""


class LostReplicas:
    """The last start of each replica that is known to be over."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def lost(self, replica: int, incarnation: int) -> bool:
        """A start of a replica is over; False if that was known."""
        if self.has(replica, incarnation):
            return False
        self._last[replica] = incarnation
        return True

    def has(self, replica: int, incarnation: int) -> bool:
        """Whether this start is over."""
        return incarnation <= self._last.get(replica, -1)
