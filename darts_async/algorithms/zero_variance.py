"""Groups whose kept rewards are all equal: they carry no gradient, and `rescue` can sometimes repair one.

Source: DESIGN 2.1. `keep` trains them all the same, `drop` is the dynamic sampling of DAPO (arXiv 2503.14476), `rescue`
is ours: another candidate that has finished anyway takes the place of the longest pick of the short end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

from darts_async.algorithms.short_set import Key

__all__ = ["PENDING", "Scored", "ZeroVariance", "has_signal", "rescue"]

ZeroVariance: TypeAlias = Literal["keep", "drop", "rescue"]

PENDING: Final = "pending"
"""A score that could decide is still to come."""


class Scored(Protocol):
    """A finished candidate."""

    @property
    def index(self) -> int:
        """Its place in the group."""

    @property
    def capped(self) -> bool:
        """Whether it ended at the cap."""

    @property
    def key(self) -> Key | None:
        """Its place in the total order."""

    @property
    def reward(self) -> float | None:
        """None while it is being scored."""


def has_signal(rewards: Sequence[float | None]) -> bool:
    """Whether rewards differ."""
    return any(reward != rewards[0] for reward in rewards)


def rescue(short: Sequence[Scored], spare: Sequence[Scored]) -> tuple[int, int] | Literal["pending"] | None:
    """Find the swap that gives a group with equal rewards a signal: (index out, index in).

    short: the picks of the short end. spare: finished candidates that were not picked. Out goes the longest of the
    short end; in comes the shortest valid spare one with another reward. `PENDING` while an earlier one in that order
    is not scored; None when there is none, or nothing to swap.
    """
    if not short:
        return None
    out = max(short, key=_order)
    for candidate in sorted((c for c in spare if not c.capped), key=_order):
        if candidate.reward is None:
            return PENDING
        if candidate.reward != out.reward:
            return out.index, candidate.index
    return None


def _order(candidate: Scored) -> Key:
    if candidate.key is None:
        raise ValueError(f"candidate {candidate.index} has not finished")
    return candidate.key
