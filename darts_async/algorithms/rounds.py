"""Whose turn it is when unfinished prompts are deferred: rounds of fresh prompts, and long rounds of deferred ones.

Tail batching, as in RollPacker: a round starts more prompts than its step needs; when the step is full the others are
ended and their prompts queue here; once they would fill a step, the next round is theirs alone, with nothing started
beyond the need and nobody deferred. So no prompt is deferred twice in a row, and none is lost (the authors of DARTS,
whose baseline does the same, lose the prompts that wait beyond one step). Differs from RollPacker's: a deferred
group's finished responses are not kept, because a group is trained on under one version.

Invariant: a round is open from the publication of its version until its step is filled, so that no group starts
that only a later step, under a newer version, could use. With `keep` and `resume` there is one endless round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

from darts_async.algorithms.ledger_records import DEFERRED
from darts_async.messages import RoundsState

__all__ = ["DEFERRED", "Rounds", "Unfinished"]

Unfinished: TypeAlias = Literal["keep", "defer", "resume"]


class Rounds:
    """The rounds of a run; round v makes version v + 1. Facts come in any order that the links allow."""

    def __init__(self, groups_per_step: int, oversample_groups: int = 0, unfinished: Unfinished = "keep") -> None:
        self._per_step = groups_per_step
        self._oversample = oversample_groups
        self._unfinished = unfinished
        self._queue: deque[int] = deque()
        self._turn: deque[int] = deque()
        """Deferred draws of the long round that have not started."""
        self._version = 0
        self._round = 0
        self._num_filled = 0
        """Steps that are known to be filled."""
        self.is_long = False
        self.num_long = 0
        """Long rounds so far."""

    @property
    def is_open(self) -> bool:
        """Whether a group may start for the round.

        Not once the next version is published, which may come before the report that the round's step is full: what
        started then would be of that version and take the place of a deferred prompt in the next round.
        """
        if self._unfinished != "defer" or self.is_long:
            return True
        return self._version == self._round and self._num_filled <= self._round

    @property
    def oversample_groups(self) -> int:
        """Groups that this round starts beyond what its step needs."""
        return 0 if self.is_long else self._oversample

    @oversample_groups.setter
    def oversample_groups(self, num: int) -> None:
        self._oversample = num

    @property
    def unfinished(self) -> Unfinished:
        """What becomes of this round's groups that are unfinished when its step is full."""
        return "keep" if self.is_long else self._unfinished

    @property
    def num_deferred(self) -> int:
        """Prompts that wait for a long round to start them."""
        return len(self._queue) + len(self._turn)

    def next_draw(self, fresh: Callable[[], int]) -> int:
        """Return the draw of the round's next group: a deferred one in a long round, else a fresh one."""
        if self.is_long and (self._turn or self._queue):
            return (self._turn or self._queue).popleft()
        return fresh()

    def started(self, draw: int) -> None:
        """A group of a draw was started, by this allocator or an earlier one: it waits no longer."""
        for waiting in (self._turn, self._queue):
            if draw in waiting:
                waiting.remove(draw)

    def to_state(self) -> RoundsState:
        """Where the rounds stand."""
        return RoundsState(
            version=self._round,
            num_filled=self._num_filled,
            is_long=self.is_long,
            queue=tuple(self._queue),
            turn=tuple(self._turn),
        )

    def restore(self, state: RoundsState) -> None:
        """Go on from there. What was published stays so."""
        self._round, self._num_filled, self.is_long = state.version, state.num_filled, state.is_long
        self._version = max(self._version, state.version)
        self._queue, self._turn = deque(state.queue), deque(state.turn)
        self._begin()

    def deferred(self, draw: int) -> None:
        """A group was ended because its step was full without it."""
        self._queue.append(draw)

    def filled(self, step: int) -> None:
        """A step is full, and everything that was deferred for it has been reported."""
        self._num_filled = max(self._num_filled, step + 1)
        self._begin()

    def swept(self) -> None:
        """The learner refused a group of the step under way: it needs another one."""
        self._num_filled = min(self._num_filled, self._round)

    def published(self, version: int) -> None:
        """The learner published a version; versions never go back."""
        self._version = max(self._version, version)
        self._begin()

    def _begin(self) -> None:
        """Begin the round of the latest version once the one before it is over. Both reports are waited for."""
        if self._version == self._round or not (self.is_long or self._num_filled >= self._version):
            return
        self._round = self._version
        self._num_filled = max(self._num_filled, self._round)
        self._queue.extendleft(reversed(self._turn))  # a long round that was cut short by the end of its step
        self._turn.clear()
        self.is_long = self._unfinished == "defer" and len(self._queue) >= self._per_step
        if self.is_long:
            self.num_long += 1
            self._turn.extend(self._queue.popleft() for _ in range(self._per_step))
