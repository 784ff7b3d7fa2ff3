"""What the allocator had learned and allotted, told from the ledger: how one goes on that remembers nothing.

Pure: fed with the records in order. Batches are drawn again where they were drawn, from what was known there, so that
the draws that are left of the last one get what they would have got. Invariant: where the allocation waits for the
outcomes of a version (eta = 0) and the budget is fixed, that is exact. Elsewhere an outcome may count one version
sooner or later than it did, and a budget that follows measured latencies begins anew. Memory: the statistics, and what
is open.
"""

from __future__ import annotations

from darts_async.algorithms.allocation import Allotment, FixedMean
from darts_async.algorithms.batch_allocation import AllocationRules, BatchAllocation
from darts_async.algorithms.dispatch import Allotted
from darts_async.algorithms.ledger_records import (
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    KnobsSet,
    LedgerRecord,
    StepTrained,
    is_lost,
)
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.algorithms.starvation import Starvation
from darts_async.config import Config
from darts_async.config.live import with_values
from darts_async.messages import EvalResult

__all__ = ["Recollection"]


class Recollection:
    """Of one run. `feed` it the records, then look."""

    def __init__(self, config: Config, order: PromptOrder, allocation: BatchAllocation | FixedMean) -> None:
        """All three as they were when the run began; the order and the allocation are used up."""
        self._config = config
        self._order = order
        self._allocation = allocation
        self._open: dict[int, tuple[int, str]] = {}
        self._passed: dict[int, Allotment] = {}
        self._next_draw = 0
        self.starvation = Starvation()
        self.evaluations: list[EvalResult] = []
        """Those that are over, in order."""
        self.num_groups = 0

    @property
    def allotted(self) -> Allotted:
        """For `Dispatcher.take_up`."""
        return Allotted(self._allocation, self._order.cursor, self._passed)

    def feed(self, record: LedgerRecord) -> None:
        """Take the next record."""
        match record:
            case GroupPlanned():
                self._planned(record)
            case GroupEnded():
                self._ended(record)
            case StepTrained():
                self._allocation.published(record.version)
            case KnobsSet():
                self._set(record)
            case EvaluationScored():
                self.evaluations.append(
                    EvalResult(
                        label=record.label,
                        policy_version=record.version,
                        reward=record.reward,
                        response_length=record.response_length,
                        num_rollouts=record.num_rollouts,
                    )
                )

    def _planned(self, record: GroupPlanned) -> None:
        self.num_groups += 1
        self._open[record.group_id] = (record.draw, record.prompt_id)
        while self._next_draw <= record.draw:
            allotment = self._allocation.draw(self._order.next)
            self._passed[allotment.draw] = allotment
            self._next_draw = allotment.draw + 1
        self._passed.pop(record.draw, None)

    def _ended(self, record: GroupEnded) -> None:
        draw, prompt_id = self._open.pop(record.group_id, (None, ""))
        if draw is None or is_lost(record.reason):
            return  # lost: the allocator heard of it as if it had never been
        self.starvation.ended(prompt_id, trained=record.outcome == "trained")
        if isinstance(self._allocation, BatchAllocation) and record.outcome != "cancelled":
            self._allocation.observe(self._order.prompt_of(draw), record.group_id, record.lengths)

    def _set(self, record: KnobsSet) -> None:
        self._config = with_values(self._config, {key: change.new for key, change in record.changes.items()})
        if isinstance(self._allocation, BatchAllocation):
            self._allocation.follow(AllocationRules.of(self._config))
        elif isinstance(budget := self._config.allocation.budget, float | int):
            self._allocation.mean = budget
