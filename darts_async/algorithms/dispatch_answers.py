"""What allocators are told when they ask where dispatch goes on. Pure.

Invariants: the last one that asked is answered, once, and with everything that was decided before the answer leaves;
nobody is answered while it is not known what the learner has.
"""

from __future__ import annotations

from collections.abc import Iterable

from darts_async.algorithms.ledger_records import LedgerRecord
from darts_async.algorithms.run_draws import RunDraws
from darts_async.messages import DispatchState

__all__ = ["DispatchAnswers"]


class DispatchAnswers:
    """Hellos in, answers out."""

    def __init__(self, draws: RunDraws, *, holds: bool = False) -> None:
        """`holds`: a selector that was started anew does not know yet what the learner has; see `go_on`."""
        self.holds = holds
        self.num_asked = 0
        """Times that an allocator has asked."""
        self._draws = draws
        self._last = -1
        self._open: tuple[str, int] | None = None

    def feed(self, records: Iterable[LedgerRecord]) -> None:
        """Take what was written down."""
        for record in records:
            self._draws.feed(record)

    def go_on(self) -> None:
        """What the learner has is known."""
        self.holds = False

    def ask(self, peer: str, number: int) -> bool:
        """An allocator says hello; False if this one, or a later one, was heard of already."""
        if number <= self._last:
            return False
        self.num_asked += 1
        self._last, self._open = number, (peer, number)
        return True

    def due(self, first_group: int) -> tuple[str, DispatchState] | None:
        """The answer that can be given now, and to whom. `first_group`: nobody has used this number or a higher one."""
        if self._open is None or self.holds:
            return None
        (peer, number), self._open = self._open, None
        return peer, self._draws.state(number=number, first_group=first_group)
