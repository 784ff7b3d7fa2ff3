"""What became of every draw of the prompt order, as far as it matters to whoever plans next: fed with the ledger.

Pure. The selector feeds it while it writes the records, and a selector that was started anew feeds it with what it
reads, so that an allocator that starts in the middle is told the same in both cases (`DispatchState`). Invariants: a
draw below `next_draw` is over, has an open group, waits for a long round, or is in `redo`; memory is what is open or
out of order, never the length of the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from darts_async.algorithms.ledger_records import (
    DEFERRED,
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    LedgerRecord,
    NumbersReserved,
    StepTrained,
)
from darts_async.algorithms.rounds import Rounds
from darts_async.messages import DispatchState, LostDraw, OpenGroup

__all__ = ["RunDraws"]


@dataclass(slots=True)
class _Open:
    """A group without an outcome."""

    draw: int
    prompt_id: str
    num_candidates: int
    rule: str
    released: bool = False


class RunDraws:
    """Where dispatch stands."""

    def __init__(self, rounds: Rounds, groups_per_step: int) -> None:
        """`rounds`: of the run, at its beginning."""
        self._rounds = rounds
        self._per_step = groups_per_step
        self._first_free = 0
        self._reserved = 0
        self._next_draw = 0
        self._open: dict[int, _Open] = {}
        self._lost: dict[int, LostDraw] = {}
        self._never: set[int] = set()
        """Draws that were passed over: taken from the order, and not planned when the allocator was lost."""
        self._num_released = 0
        """Slots of steps that are taken."""
        self._num_trained = 0
        self._version = 0
        self._evaluated: list[tuple[int, float, float]] = []

    @property
    def num_released(self) -> int:
        """Slots of steps that were taken, in order."""
        return self._num_released

    def feed(self, record: LedgerRecord) -> None:
        """Take the next record."""
        match record:
            case GroupPlanned():
                self._planned(record)
            case GroupReleased():
                if (group := self._open.get(record.group_id)) is not None:
                    group.released = True
                self._num_released += 1
                if not self._num_released % self._per_step:
                    self._rounds.filled(self._num_released // self._per_step - 1)
            case GroupEnded():
                self._ended(record)
            case StepTrained():
                self._version = max(self._version, record.version)
                # All of its groups count, also those whose end was written before it was known that they are trained:
                # the books of a run that failed are closed without waiting for a learner that is at work.
                self._num_trained = max(self._num_trained, record.version * self._per_step)
                self._num_released = max(self._num_released, record.version * self._per_step)
                self._rounds.published(record.version)
            case EvaluationScored():
                self._evaluated.append((record.version, record.reward, record.response_length))
            case NumbersReserved():
                self._reserved = max(self._reserved, record.below)

    def first_group(self) -> int:
        """A number that no group has, nor any higher one, as far as the ledger can say."""
        return max(self._first_free, self._reserved)

    def state(self, *, number: int, first_group: int) -> DispatchState:
        """The answer to hello `number`."""
        redo = {draw: LostDraw(draw=draw, num_candidates=0) for draw in self._never} | self._lost
        return DispatchState(
            number=number,
            first_group=first_group,
            next_draw=self._next_draw,
            redo=tuple(redo[draw] for draw in sorted(redo)),
            open=tuple(
                OpenGroup(group_id=group_id, draw=group.draw, prompt_id=group.prompt_id)
                for group_id, group in self._open.items()
                if group.released
            ),
            trained=self._num_trained,
            version=self._version,
            rounds=self._rounds.to_state(),
            evaluated=tuple(self._evaluated),
        )

    def _planned(self, record: GroupPlanned) -> None:
        draw = record.draw
        self._first_free = max(self._first_free, record.group_id + 1)
        self._open[record.group_id] = _Open(draw, record.prompt_id, len(record.candidate_ids), record.rule)
        self._never |= set(range(self._next_draw, draw))
        self._next_draw = max(self._next_draw, draw + 1)
        self._never.discard(draw)
        if self._lost.pop(draw, None) is None:
            self._rounds.started(draw)

    def _ended(self, record: GroupEnded) -> None:
        group = self._open.pop(record.group_id, None)
        if group is None:
            return
        if record.outcome == "trained":
            self._num_trained += 1
        elif record.outcome == "stale":
            self._num_released -= 1
            self._rounds.swept()
        elif group.released:
            self._num_released -= 1
        if record.reason == DEFERRED:
            self._rounds.deferred(group.draw)
        elif record.starts_again:
            self._lost[group.draw] = LostDraw(draw=group.draw, num_candidates=group.num_candidates, rule=group.rule)
