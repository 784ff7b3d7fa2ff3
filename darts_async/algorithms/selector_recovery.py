"""The books of a selector that is gone, from its ledger: what a new one goes on with.

Pure: fed with the records in order, whatever they end with (a crash may cut them off anywhere). It knows what was
decided and written; what was under way it only knows to be open. Nothing is written here: `Selector.take_up` writes off
what was lost, and waits for the learner to say what it has. Memory: what is open, and two means a step.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from darts_async.algorithms.books import Books
from darts_async.algorithms.group import GroupState, Status
from darts_async.algorithms.ledger_records import (
    DEFERRED,
    CandidateEnded,
    CandidateReplaced,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    LedgerRecord,
    RunOpened,
    StepTrained,
)
from darts_async.algorithms.live_group import LiveGroup
from darts_async.algorithms.run_draws import RunDraws
from darts_async.algorithms.selection import RULES
from darts_async.messages import GroupPlan, LedgerState, candidate_id, group_of, index_of

__all__ = ["SelectorRecovery"]

_STATUS: Final[dict[LedgerState, Status]] = {
    "trained": Status.FINISHED,
    "rejected": Status.FINISHED,
    "stale": Status.FINISHED,
    "cancelled_tail": Status.CANCELLED,
    "cancelled_shutdown": Status.CANCELLED,
    "failed": Status.FAILED,
}


class SelectorRecovery:
    """What the records say. `feed` them all, then give it to `Selector.take_up`."""

    def __init__(self, *, max_response_tokens: int, run_seed: int, draws: RunDraws) -> None:
        """`draws`: of a run at its beginning."""
        self.books = Books(max_response_tokens)
        self.draws = draws
        self.groups: dict[int, LiveGroup] = {}
        """Those without an outcome, or with a candidate that has not ended, in order of their numbers."""
        self.released: list[int] = []
        """Of these, what the learner was given and has not answered for, in order of release."""
        self.trained_since: list[int] = []
        """Groups whose outcome was written, but not the step that trained them."""
        self.version = 0
        self.num_groups = 0
        self.opened = False
        """There is a run in the ledger."""
        self._run_seed = run_seed

    def feed(self, record: LedgerRecord) -> None:
        """Take the next record."""
        self.draws.feed(record)
        match record:
            case RunOpened():
                self.opened = True
            case GroupPlanned():
                self._planned(record)
            case CandidateReplaced():
                self.books.ledger.dispatched((record.candidate_id,))
                if (group := self.groups.get(group_of(record.candidate_id))) is not None:
                    group.state.restore(index_of(record.candidate_id), Status.RUNNING)
            case CandidateEnded():
                self._candidate_ended(record)
            case GroupReleased():
                self._group_released(record)
            case GroupEnded():
                self._group_ended(record)
            case StepTrained():
                self.version = record.version
                self.trained_since.clear()
                self.books.restore_step()

    def _planned(self, record: GroupPlanned) -> None:
        self.num_groups += 1
        self.books.ledger.dispatched(record.candidate_ids)
        plan = GroupPlan(
            group_id=record.group_id,
            draw=record.draw,
            prompt_id=record.prompt_id,
            rule=record.rule,
            group_size=record.group_size,
            keep_longest=record.keep_longest,
            candidate_ids=record.candidate_ids,
            dispatch_version=record.dispatch_version,
            prompt_tokens=np.empty(0, np.int32),
        )
        state = GroupState(
            group_id=record.group_id,
            draw=record.draw,
            indices=map(index_of, record.candidate_ids),
            rule=RULES[record.rule],
            group_size=record.group_size,
            keep_longest=record.keep_longest,
            run_seed=self._run_seed,
        )
        self.groups[record.group_id] = LiveGroup(plan, "", state)

    def _candidate_ended(self, record: CandidateEnded) -> None:
        group = self.groups.get(group_of(record.candidate_id))
        if group is None:
            return
        status = _STATUS[record.state]
        group.state.restore(
            index_of(record.candidate_id), status, record.tokens, capped=record.capped, reward=record.reward
        )
        self.books.restore_end(group, record)
        self._forget_if_over(group)

    def _group_released(self, record: GroupReleased) -> None:
        group = self.groups.get(record.group_id)
        if group is None:
            return
        for kept in record.kept:
            group.state.restore(
                index_of(kept.candidate_id), Status.FINISHED, kept.tokens, capped=kept.capped, reward=kept.reward
            )
            self.books.ledger.reported(kept.candidate_id, kept.tokens)
        self._cancel_running(group)
        indices = tuple(index_of(kept.candidate_id) for kept in record.kept)
        group.state.restore_decision(indices, zero_variance=record.zero_variance, rescued=record.rescued)
        group.restore_release(record.lengths)
        self.books.num_zero_variance += record.zero_variance
        self.released.append(record.group_id)

    def _group_ended(self, record: GroupEnded) -> None:
        group = self.groups.get(record.group_id)
        if group is None:
            return
        group.ended = True
        if record.outcome != "cancelled" or record.reason == DEFERRED:
            self._cancel_running(group)
        if group.released:
            self.released.remove(record.group_id)
        self.books.restore_outcome(group, record)
        if record.outcome == "trained":
            self.trained_since.append(record.group_id)
        self._forget_if_over(group)

    def _cancel_running(self, group: LiveGroup) -> None:
        """All of its candidates are decided. Those without an end were cancelled; their reports were on their way."""
        for index in group.state.running:
            group.state.restore(index, Status.CANCELLED)
            self.books.ledger.decided(candidate_id(group.plan.group_id, index), "cancelled_tail")

    def _forget_if_over(self, group: LiveGroup) -> None:
        if group.ended and not any(map(self.books.ledger.is_open, self._ids(group))):
            del self.groups[group.plan.group_id]

    @staticmethod
    def _ids(group: LiveGroup) -> list[int]:
        base = group.plan.group_id
        return [candidate_id(base, candidate.index) for candidate in group.state.candidates]
