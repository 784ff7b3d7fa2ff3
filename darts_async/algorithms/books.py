"""Everything the selector writes down: the ledger, its records, and what the summary and the gauges are made of.

Decides nothing. It turns verdicts, reports and steps into ledger entries and `LedgerRecord`s, and adds up what was
saved, how fast cancels were, why candidates failed, and what the steps looked like. Invariant: one `CandidateEnded`
record per candidate that was entered, written when the ledger ends it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from darts_async.algorithms.group import ZERO_VARIANCE, Status
from darts_async.algorithms.ledger import Ended, Ledger
from darts_async.algorithms.ledger_records import (
    CandidateEnded,
    CandidateReplaced,
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    KeptCandidate,
    LedgerRecord,
    NumbersReserved,
    RoleRestarted,
    RunClosed,
    StepTrained,
)
from darts_async.algorithms.live_group import LiveGroup
from darts_async.algorithms.residual_life import ResidualLife
from darts_async.algorithms.step_record import Mean, RunEnds, StepRecord
from darts_async.messages import (
    LEDGER_STATES,
    EvalResult,
    GroupPlan,
    LedgerState,
    Role,
    candidate_id,
    group_of,
    index_of,
)

__all__ = ["Books"]

LATENCY_WINDOW: Final = 65_536
"""Cancel latencies that the percentiles are taken over: the latest of a long run."""


class Books:
    """The books of a run's training groups; evaluations are not in them."""

    def __init__(self, max_response_tokens: int) -> None:
        self.ledger = Ledger()
        self.num_cancelled = 0
        """Candidates that a cancel was decided for."""
        self.num_zero_variance = 0
        """Groups whose picks all had the same reward, rescued ones included."""
        self.num_ended: Counter[str] = Counter()
        """Groups by outcome."""
        self.failures: Counter[str] = Counter()
        """Failed candidates by reason."""
        self._residual = ResidualLife(max_response_tokens)
        self._latencies_ms: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self._ends = RunEnds()
        self._step = StepRecord()
        self._rejected: list[LiveGroup] = []
        """Rejected since the last step, entered with the next one: by then their cancelled candidates have reported."""
        self._kept_length, self._generated_length = Mean(), Mean()
        self._records: list[LedgerRecord] = []

    def take_records(self) -> list[LedgerRecord]:
        """Records since the last call, in order."""
        records, self._records = self._records, []
        return records

    def planned(self, plan: GroupPlan) -> None:
        """Enter a group's candidates."""
        self.ledger.dispatched(plan.candidate_ids)
        self._records.append(
            GroupPlanned(
                group_id=plan.group_id,
                draw=plan.draw,
                prompt_id=plan.prompt_id,
                purpose=plan.purpose,
                rule=plan.rule,
                group_size=plan.group_size,
                keep_longest=plan.keep_longest,
                candidate_ids=plan.candidate_ids,
                dispatch_version=plan.dispatch_version,
            )
        )

    def replaced(self, failed_id: int, new_id: int) -> None:
        """Enter a candidate in the place of one that failed."""
        self.ledger.dispatched((new_id,))
        self._records.append(CandidateReplaced(failed_id=failed_id, candidate_id=new_id))

    def reported(
        self,
        group: LiveGroup,
        candidate: int,
        tokens: int,
        ending: Literal["finished", "capped", "cancelled", "other"],
    ) -> bool:
        """Enter a generator's final token count and how it came about; False for a repeat."""
        news, end = self.ledger.reported(candidate, tokens)
        if news and ending in {"finished", "capped"}:
            self._residual.finished(tokens)
        elif news and ending == "cancelled":
            self._residual.cancelled(tokens)
        if end is not None:
            self._write_end(group, end, capped=ending == "capped")
        return news

    def unheard(self, group: LiveGroup, index: int) -> None:
        """No report of a candidate will come, if none is here: its last progress is what it cost."""
        tokens = group.state.candidate(index).tokens
        _, end = self.ledger.reported(candidate_id(group.plan.group_id, index), tokens, estimated=True)
        if end is not None:
            self._write_end(group, end)

    def decided(self, group: LiveGroup, index: int, state: LedgerState) -> None:
        """Enter a verdict."""
        end = self.ledger.decided(candidate_id(group.plan.group_id, index), state)
        if end is not None:
            self._write_end(group, end)

    def cancel_took(self, seconds: float) -> None:
        """From a decision to the return of the engine's abort."""
        self._latencies_ms.append(1e3 * seconds)

    def released(self, group: LiveGroup, step: int) -> None:
        """Enter that a complete group is given to the learner."""
        state = group.state
        kept = [state.candidate(index) for index in state.kept]
        self._records.append(
            GroupReleased(
                group_id=group.plan.group_id,
                step=step,
                kept=tuple(
                    KeptCandidate(candidate_id(group.plan.group_id, c.index), c.tokens, c.reward or 0.0, c.capped)
                    for c in kept
                ),
                lengths=group.lengths,
                zero_variance=state.zero_variance,
                rescued=state.rescued,
            )
        )

    def group_ended(
        self,
        group: LiveGroup,
        outcome: Literal["trained", "rejected", "stale", "cancelled"],
        *,
        version: int | None = None,
        reason: str = "",
    ) -> None:
        """Enter what became of a group."""
        group_id = group.plan.group_id
        self.num_ended[outcome] += 1
        if outcome == "trained":
            self._enter(group)
        elif outcome == "rejected":
            self._rejected.append(group)
        lengths = group.lengths if outcome != "cancelled" else ()
        self._records.append(
            GroupEnded(group_id=group_id, outcome=outcome, version=version, reason=reason, lengths=lengths)
        )

    def write_off(self, group: LiveGroup, index: int, reason: str) -> None:
        """A candidate was lost with a role: it failed, unless its verdict was known; no report of it will come."""
        candidate = candidate_id(group.plan.group_id, index)
        if not self.ledger.is_open(candidate):
            return
        if self.ledger.is_undecided(candidate):
            group.reasons[index] = reason
            self.failures[reason] += 1
            self.decided(group, index, "failed")
        self.unheard(group, index)

    def reserved(self, below: int) -> None:
        """Enter that group numbers below this may be in use."""
        self._records.append(NumbersReserved(below=below))

    def role_lost(self, role: Role, rank: int, incarnation: int) -> None:
        """Enter that a start of a role is over."""
        self._records.append(RoleRestarted(role=role, rank=rank, incarnation=incarnation))

    def evaluated(self, result: EvalResult) -> None:
        """Enter the score of the held-out set."""
        self._records.append(
            EvaluationScored(
                label=result.label,
                version=result.policy_version,
                reward=result.reward,
                response_length=result.response_length,
                num_rollouts=result.num_rollouts,
            )
        )

    # --- an earlier start's books, from its records (nothing is written) ----------------------------------------------

    def restore_end(self, group: LiveGroup, record: CandidateEnded) -> None:
        """The end of a candidate, as it was written down."""
        self.ledger.reported(record.candidate_id, record.tokens, estimated=record.estimated)
        self.ledger.decided(record.candidate_id, record.state)
        if record.state == "cancelled_tail":
            self._residual.cancelled(record.tokens)
            self.num_cancelled += 1
        elif record.state in {"trained", "rejected", "stale"}:
            self._residual.finished(record.tokens)
        elif record.state == "failed":
            self.failures[record.reason] += 1
            group.reasons[index_of(record.candidate_id)] = record.reason

    def restore_outcome(self, group: LiveGroup, record: GroupEnded) -> None:
        """The end of a group, as it was written down."""
        self.num_ended[record.outcome] += 1
        if record.outcome == "trained":
            self._enter(group)
        elif record.outcome == "rejected":
            self.num_zero_variance += record.reason == ZERO_VARIANCE
            self._rejected.append(group)

    def restore_step(self) -> None:
        """The end of a step."""
        self._close_step()
        self._residual.tokens_saved_since()

    def _close_step(self) -> StepRecord:
        rejected, self._rejected = self._rejected, []
        for group in rejected:
            self._enter(group)
        step, self._step = self._step, StepRecord()
        self._ends.add(step)
        self._kept_length += step.kept_length
        self._generated_length += step.length
        return step

    def step_done(self, version: int, group_ids: tuple[int, ...]) -> dict[str, float]:
        """Close a step, whose groups have been entered; return its metrics, the totals so far included."""
        step = self._close_step()
        self._records.append(StepTrained(version=version, group_ids=group_ids))
        values = {
            **self.values(),
            **step.metrics(),
            "cancel/tokens_saved": self._residual.tokens_saved(),
            "cancel/tokens_saved_in_step": self._residual.tokens_saved_since(),
        }
        if self._latencies_ms:
            values["cancel/latency_p99_ms"] = self._latency_ms(99)
        return values

    def values(self) -> dict[str, float]:
        """Totals so far, by metric name; cheap."""
        values = {f"tokens/{state}": float(count) for state, count in self.ledger.tokens.items()}
        values |= {f"failed/{reason}": float(count) for reason, count in self.failures.items()}
        return {**values, "cancel/rollouts": float(self.num_cancelled)}

    def close(self, groups: Mapping[int, LiveGroup]) -> dict[str, float]:
        """End whatever is open; return the summary. Raises `ValueError` when the books do not balance.

        groups: by number, every group that has a candidate which has not ended.
        """
        for group in groups.values():
            if not group.ended and group.trains:
                self.group_ended(group, "cancelled")
        for end in self.ledger.close(lambda c: groups[group_of(c)].state.candidate(index_of(c)).tokens):
            self._write_end(groups[group_of(end.candidate_id)], end)
        self.ledger.check()
        rollouts = {str(state): self.ledger.rollouts[state] for state in LEDGER_STATES}
        tokens = {str(state): self.ledger.tokens[state] for state in LEDGER_STATES}
        rollouts["generated"], tokens["generated"] = self.ledger.generated, self.ledger.tokens_generated
        estimated = self.ledger.num_estimated
        self._records.append(RunClosed(rollouts=rollouts, tokens=tokens, estimated=estimated))
        summary = {f"rollouts/{name}": float(count) for name, count in rollouts.items()}
        summary |= {f"tokens/{name}": float(count) for name, count in tokens.items()}
        summary["rollouts/tokens_estimated"] = float(estimated)
        summary["tokens_saved_estimate"] = self._residual.tokens_saved()
        if self._latencies_ms:
            summary |= {f"cancel_latency_ms/p{percent}": self._latency_ms(percent) for percent in (50, 99)}
        summary |= self._ends.summary()
        summary |= {f"groups/{outcome}": float(self.num_ended[outcome]) for outcome in ("trained", "rejected", "stale")}
        summary["zero_variance_groups"] = float(self.num_zero_variance)
        for name, mean in (("kept", self._kept_length), ("generated", self._generated_length)):
            if mean.count:
                summary[f"{name}_length/mean"] = mean.value
        return summary | {f"failed/{reason}": float(count) for reason, count in sorted(self.failures.items())}

    def _enter(self, group: LiveGroup) -> None:
        """A group counts in the step that trained it, or in the next one when it was rejected."""
        state = group.state
        self._step.add(
            group.finished,
            state.kept,
            cancelled=[c for c in state.candidates if c.status is Status.CANCELLED],
            num_sampled=len(group.plan.candidate_ids),
            zero_variance=state.zero_variance,
            rescued=state.rescued,
            last_pick_wait_s=group.last_pick_wait_s,
        )

    def _write_end(self, group: LiveGroup, end: Ended, *, capped: bool = False) -> None:
        candidate = group.state.candidate(index_of(end.candidate_id))
        if end.estimated and end.state == "cancelled_tail":
            self._residual.cancelled(end.tokens)
        self._records.append(
            CandidateEnded(
                candidate_id=end.candidate_id,
                state=end.state,
                tokens=end.tokens,
                estimated=end.estimated,
                capped=capped or candidate.capped,
                reward=candidate.reward,
                reason=group.reasons.get(candidate.index, ""),
            )
        )

    def _latency_ms(self, percent: float) -> float:
        values = np.fromiter(self._latencies_ms, dtype=np.float64, count=len(self._latencies_ms))
        return float(np.percentile(values, percent))
