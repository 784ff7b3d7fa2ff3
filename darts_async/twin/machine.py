"""What roles on one machine share: who computes at the moment, so that each can be slower beside the other."""

from __future__ import annotations

from collections.abc import Callable

from darts_async.metrics import BusyClock

__all__ = ["Machine"]


class Machine:
    """Counts what computes. Engines listen, because their speed changes while they decode."""

    def __init__(self) -> None:
        self._learners = 0
        self.decoding = BusyClock()
        """How long any replica has been at work."""
        self._listeners: list[Callable[[], None]] = []

    @property
    def learner_computes(self) -> bool:
        """Whether the learner is at work."""
        return self._learners > 0

    @property
    def engine_decodes(self) -> bool:
        """Whether any replica is at work."""
        return self.decoding.num_running > 0

    def listen(self, changing: Callable[[], None]) -> None:
        """Have it called before `learner_computes` changes, so that what was done so far is counted at the old speed,
        and once more after it."""
        self._listeners.append(changing)

    def learner(self, by: int) -> None:
        """The learner begins (+1) or ends (-1) something."""
        changes = (self._learners == 0) != (self._learners + by == 0)
        if changes:
            for listener in self._listeners:
                listener()
        self._learners += by
        if changes:
            for listener in self._listeners:
                listener()

    def engine(self, by: int) -> None:
        """A replica begins or ends to decode."""
        self.decoding.change(by)
