"""Which published version a replica serves next: the newest, but never past one that is evaluated. Pure.

Invariants: versions only rise; a version that is evaluated is served, however far it has been overtaken, unless its
evaluation is known to be over; once served it stays until then. So every replica that samples for an evaluation of v
serves exactly v. No deadlock: an evaluation needs credits that are kept for it (`EvalSchedule.reserve`) and replicas
at its version, which the learner has published and the store keeps; it waits for nothing that waits for a later one.
"""

from __future__ import annotations

from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.messages import PolicyUpdate


class SwapOrder:
    """The updates that a replica was told of and what it serves."""

    def __init__(self, schedule: EvalSchedule) -> None:
        self._schedule = schedule
        self._served = -1
        """Nothing is confirmed yet, not even version 0."""
        self._evaluated = 0
        """Evaluations of versions up to this one are over."""
        self._newest: PolicyUpdate | None = None
        self._due: dict[int, PolicyUpdate] = {}
        """Updates to versions that are evaluated, and not served yet."""

    @property
    def is_holding(self) -> bool:
        """Whether the version that is served is being evaluated: no other one is loaded."""
        return self._schedule.is_due(self._served) and self._served > self._evaluated

    @property
    def newest(self) -> int:
        """The newest version that it was told of; 0 before any, which is the model that it starts with."""
        return 0 if self._newest is None else self._newest.version

    def published(self, update: PolicyUpdate) -> None:
        """The learner published a version; repeats and late news of old ones do no harm."""
        if self._newest is None or update.version >= self._newest.version:
            self._newest = update
        if self._schedule.is_due(update.version) and update.version > self._served:
            self._due[update.version] = update

    def evaluated(self, version: int) -> None:
        """The evaluation of a version, and of all before it, is over."""
        self._evaluated = max(self._evaluated, version)

    def served(self, version: int) -> None:
        """The engine confirmed a version."""
        self._served = max(self._served, version)
        for due in [due for due in self._due if due <= self._served]:
            del self._due[due]

    def next(self) -> PolicyUpdate | None:
        """Return what to load now; None: nothing new, or the version that is served is being evaluated."""
        if self.is_holding or self._newest is None or self._newest.version <= self._served:
            return None
        due = [version for version in self._due if version > self._evaluated]
        return self._due[min(due)] if due else self._newest
