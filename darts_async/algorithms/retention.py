"""Which checkpoints stay: the latest periodic ones, the best one, those that wait for their score, the last one. Pure.

A checkpoint can be several of these at once and goes only when it is none. Best: highest held-out reward; of equal
ones the one with the shorter responses, then the older one. A score that is no number is never the best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scored:
    """A version's held-out score."""

    version: int
    reward: float
    response_length: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Smaller is better."""
        return (-self.reward, self.response_length, self.version)


class Retention:
    """The checkpoints of a run. Facts come in by method calls in any order; `to_delete` says what is left over."""

    def __init__(self, keep: int) -> None:
        """`keep`: periodic ones that stay."""
        self._keep = keep
        self._written: set[int] = set()
        self._periodic: set[int] = set()
        self._awaiting: set[int] = set()
        self._early: dict[int, Scored] = {}
        """Scores of versions whose checkpoints are not complete yet."""
        self._best: Scored | None = None
        self._last: int | None = None

    @property
    def best(self) -> Scored | None:
        """The best of the versions that were scored and have a checkpoint."""
        return self._best

    def written(self, version: int, *, periodic: bool = False, awaits_score: bool = False, last: bool = False) -> None:
        """A checkpoint is complete, for these reasons. May be told again with further ones."""
        self._written.add(version)
        if periodic:
            self._periodic.add(version)
        if last:
            self._last = version
        early = self._early.pop(version, None)
        if early is not None:
            self._consider(early)
        elif awaits_score:
            self._awaiting.add(version)

    def scored(self, score: Scored) -> None:
        """A version was evaluated. Scores come in order of version: earlier ones that are missing will not come."""
        self._awaiting = {version for version in self._awaiting if version > score.version}
        if score.version in self._written:
            self._consider(score)
        else:
            self._early[score.version] = score

    def ended(self) -> None:
        """No further scores will come."""
        self._awaiting.clear()

    def _consider(self, score: Scored) -> None:
        if math.isfinite(score.reward) and (self._best is None or score.rank < self._best.rank):
            self._best = score

    def to_delete(self) -> list[int]:
        """Return the versions whose checkpoints are no longer wanted, oldest first; they count as deleted from now."""
        kept = {*sorted(self._periodic)[-self._keep :], *self._awaiting}
        if self._best is not None:
            kept.add(self._best.version)
        if self._last is not None:
            kept.add(self._last)
        left_over = sorted(self._written - kept)
        self._written &= kept
        self._periodic &= kept
        return left_over
