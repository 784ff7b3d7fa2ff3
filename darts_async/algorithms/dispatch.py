"""What the allocator sends next: replacements first, then the evaluation or the training groups of the phase.

A run goes through the phases `before` (held-out set at version 0), `train`, `after` (held-out set at the last version)
and `complete`. Within `train` a group starts when admission allows it and one replica has credits for all of its
candidates; the held-out set at a version of the schedule goes before further training groups, so that no replica waits
long with the next version. Pure: events come in as method calls, jobs come out of `next_job`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from darts_async.algorithms.allocation import Allotment, Allotter
from darts_async.algorithms.credits import CreditBook
from darts_async.algorithms.dispatch_waits import admission_waits, credit_waits, evaluation_waits
from darts_async.algorithms.evaluation import EvalLabel, EvalSchedule, EvalScore, Evaluation
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.algorithms.rounds import Rounds, Unfinished
from darts_async.algorithms.staleness import Admission
from darts_async.algorithms.wait_graph import Pending
from darts_async.messages import DispatchState, LostDraw, OpenGroup

Phase: TypeAlias = Literal["before", "train", "after", "complete"]


@dataclass(frozen=True, slots=True)
class GroupJob:
    """Plan and dispatch one group: all of its candidates to one replica."""

    group_id: int
    draw: int
    """Of the prompt order; of an evaluation, the prompt's index."""
    prompt_index: int
    num_candidates: int
    purpose: Literal["train", "eval"]
    policy_version: int
    """Lower bound on the version of every token; of an evaluation, the version."""
    peer: str
    incarnation: int = 0
    """Which start of the peer has the credits for it."""
    unfinished: Unfinished = "keep"
    """What becomes of it when a step is filled while it is unfinished."""
    rule: str = ""
    """Selection rule; empty: the run's."""


@dataclass(frozen=True, slots=True)
class ReplacementJob:
    """Dispatch one candidate more of a group that is under way: to the replica that has the others, or to any if that
    one was lost."""

    group_id: int
    candidate_id: int
    peer: str
    incarnation: int = 0
    """Which start of the peer has the credit for it."""


@dataclass(frozen=True, slots=True)
class Allotted:
    """What earlier dispatch knew of the draws to come, for one that goes on from there."""

    allocation: Allotter
    """With all that was learned of the prompts."""
    cursor: int
    """Draws of the prompt order that it has allotted, those that it still holds included."""
    passed: Mapping[int, Allotment] = field(default_factory=dict)
    """Draws that were allotted and passed over: not held any more, and never planned."""


class Dispatcher:
    """The allocator's state machine. `credits` and `admission` are its books; it alone spends from them."""

    def __init__(
        self,
        *,
        admission: Admission,
        order: PromptOrder,
        allocation: Allotter,
        steps: int,
        num_eval_prompts: int,
        eval_samples: int,
        rounds: Rounds | None = None,
        schedule: EvalSchedule = EvalSchedule(),  # noqa: B008 - frozen
    ) -> None:
        self.credits = CreditBook()
        self.admission = admission
        self.rounds = Rounds(1, admission.oversample_groups) if rounds is None else rounds
        self._order = order
        self._allocation = allocation
        self._steps = steps
        self._num_eval = num_eval_prompts
        self._eval_samples = eval_samples
        self._next_group = 0
        self._holder: dict[int, tuple[str, int | None]] = {}
        """Which start of which replica a group was sent to."""
        self._replacements: deque[tuple[int, int]] = deque()
        self._replaced: dict[int, set[int]] = {}
        """Of each group that was sent, the candidates that were asked for in the place of others."""
        self._pending: dict[bool, Allotment] = {}
        """Drawn and waiting for credits, by kind of round."""
        self._redo: deque[LostDraw] = deque()
        """Draws whose groups were lost: they start before any other."""
        self._passed: dict[int, Allotment] = {}
        """Of these, what those were allotted that were never planned, as far as it is known."""
        self._evaluated: set[int] = set()
        """Versions that were evaluated."""
        self._schedule = schedule
        self._evaluation: Evaluation | None = None
        self._due: deque[int] = deque()
        """Versions to evaluate while training goes on, once the evaluation under way is over."""
        self._is_over = False
        """The last version is published: nothing more is started for training."""
        self.phase: Phase = "before"
        self._start_phase("before" if num_eval_prompts else "train")

    def take_up(self, state: DispatchState, allotted: Allotted | None = None) -> None:
        """Go on from where the selector says, whatever was known here; versions that were published stay so, and so do
        credits. An evaluation that was under way begins anew.

        allotted: what was learned of the prompts up to this state. None: what is known here, of an allocation that
        gives a draw the same whenever it is asked.
        """
        if self.phase == "complete":
            return
        self._next_group = max(self._next_group, state.first_group)
        self._holder.clear()
        self._replacements.clear()
        self._pending.clear()
        self._redo, self._passed = deque(state.redo), {}
        self._order.cursor = state.next_draw
        if allotted is not None:
            self._allocation, self._passed = allotted.allocation, dict(allotted.passed)
            self._order.cursor = max(allotted.cursor, state.next_draw)
        self.admission.restore(state.trained, (group.group_id for group in state.open))
        self.admission.published(state.version)
        self.rounds.restore(state.rounds)
        self.rounds.published(self.admission.version)
        self._is_over = self._is_over or self.admission.version >= self._steps
        self._evaluated.update(version for version, *_ in state.evaluated)
        self._evaluation = None
        self._due.clear()
        if self._num_eval and 0 not in self._evaluated and not state.next_draw:
            self._start_phase("before")
            return
        self._evaluate(self._schedule.due_between(max(self._evaluated, default=0), self.admission.version))
        self.phase = "train"
        self._advance()

    def adopted(self, group: OpenGroup) -> GroupJob:
        """What is known of a group that an earlier allocator planned, and whose outcome comes here."""
        return GroupJob(
            group_id=group.group_id,
            draw=group.draw,
            prompt_index=self._order.prompt_of(group.draw),
            num_candidates=0,
            purpose="train",
            policy_version=0,
            peer="",
        )

    def redo(self, job: GroupJob) -> None:
        """A group that was given to the learner is lost: its draw starts again."""
        self._redo.append(LostDraw(draw=job.draw, num_candidates=job.num_candidates, rule=job.rule))

    def next_job(self) -> GroupJob | ReplacementJob | None:
        """Return what can be sent now and book it, or None: then only an event can change that."""
        return self._next_eval() or self._next_replacement() or self._next_train()

    def pending(self) -> list[Pending]:
        """What keeps `next_job` from having one; empty when it has, or when all is done."""
        evaluation, reserve = self._evaluation, self._schedule.reserve
        if evaluation is not None and not evaluation.all_started:
            return credit_waits(self.credits, self._eval_samples, "a held-out group")
        found = [] if evaluation is None else evaluation_waits(evaluation)
        if self._replacements:
            return [*found, *credit_waits(self.credits, 1, "a replacement", reserve)]
        if self.phase != "train":
            return found
        if self._is_over:
            return [*found, Pending("selector-0", f"waits for the end of {self.admission.live} groups")]
        if not self.rounds.is_open:
            return [*found, Pending("selector-0", "waits until the step of this round is filled")]
        if blocked := admission_waits(self.admission):
            return [*found, *blocked]
        drawn = self._pending.get(self.rounds.is_long)
        if drawn is None:
            if self._allocation.is_behind(self.admission.version):
                return [*found, Pending("selector-0", f"waits for the outcomes of version {self.admission.version}")]
            return found
        return [*found, *credit_waits(self.credits, drawn.num_candidates, "the next group", reserve)]

    def replace(self, group_id: int, candidate_id: int) -> None:
        """The selector asks for a candidate in the place of one that failed. Asking again changes nothing."""
        if group_id not in self._holder:
            return  # it has ended meanwhile
        asked = self._replaced.setdefault(group_id, set())
        if candidate_id not in asked:
            asked.add(candidate_id)
            self._replacements.append((group_id, candidate_id))

    def may_send(self, job: GroupJob | ReplacementJob) -> bool:
        """Whether the start of the replica that a job was booked for is still there."""
        return self.credits.incarnation(job.peer) == job.incarnation

    def group_ended(self, group_id: int, *, trained: bool) -> None:
        """A training group reached its end."""
        self._holder.pop(group_id, None)
        self._replaced.pop(group_id, None)
        self.admission.ended(group_id, trained=trained)
        self._advance()

    def evaluated(self, group_id: int, rewards: tuple[float, ...], lengths: tuple[int, ...]) -> EvalScore | None:
        """A group of the held-out set is scored; return the evaluation's result when it was the last one."""
        evaluation = self._evaluation
        if evaluation is None or not evaluation.ended(group_id, rewards, lengths):
            return None
        self._holder.pop(group_id, None)
        score = evaluation.score
        if score is not None:
            self._evaluation = None
            self._evaluated.add(score.version)
            if score.label == "during":
                self._advance()
            else:
                self._start_phase("train" if score.label == "before" else "complete")
        return score

    def published(self, version: int, *, last: bool = False) -> None:
        """The learner published a version; with `last` (or the last step's version) training is over."""
        due = self._schedule.due_between(self.admission.version, version)
        self.admission.published(version)
        self.rounds.published(version)
        self._is_over = self._is_over or last or version >= self._steps
        self._evaluate(due)
        self._advance()

    def _evaluate(self, versions: list[int]) -> None:
        """Evaluate these versions while training goes on. The last version's is the evaluation of phase `after`."""
        if self._num_eval:
            self._due.extend(v for v in versions if not (self._is_over and v == self.admission.version))

    def _advance(self) -> None:
        if not self._allocation.waits or self.admission.is_settled:
            self._allocation.published(self.admission.version)
        if self.phase != "train" or self._evaluation is not None:
            return
        if self._due:
            self._evaluation = Evaluation("during", self._due.popleft(), self._num_eval)
        elif self._is_over and self.admission.is_settled:
            is_scored = not self._num_eval or self.admission.version in self._evaluated
            self._start_phase("complete" if is_scored else "after")

    def _start_phase(self, phase: Phase) -> None:
        self.phase = phase
        if phase in ("before", "after"):
            label: EvalLabel = "before" if phase == "before" else "after"
            self._evaluation = Evaluation(label, self.admission.version, self._num_eval)

    def _next_replacement(self) -> ReplacementJob | None:
        while self._replacements:
            group_id, candidate = self._replacements[0]
            if group_id not in self._holder:
                self._replacements.popleft()  # the group has ended meanwhile
                continue
            peer = self._place(*self._holder[group_id])
            if peer is None:
                return None
            self._replacements.popleft()
            self.credits.spend(peer, 1)
            return ReplacementJob(group_id, candidate, peer, self.credits.incarnation(peer) or 0)
        return None

    def _place(self, peer: str, incarnation: int | None) -> str | None:
        """Who takes one candidate more of a group that this start of a replica has, or had; None: nobody can yet."""
        if self.credits.incarnation(peer) != incarnation:
            return self.credits.pick(1, reserve=self._schedule.reserve)
        return peer if self.credits.free(peer) - self._schedule.reserve >= 1 else None

    def _next_train(self) -> GroupJob | None:
        if self.phase != "train" or self._is_over or self._replacements:
            return None  # a replacement goes before new groups: its siblings wait for it
        if self._evaluation is not None and not self._evaluation.all_started:
            return None
        self.admission.oversample_groups = self.rounds.oversample_groups
        if not (self.rounds.is_open and self.admission.may_dispatch()):
            return None
        lane = self.rounds.is_long
        if lane not in self._pending:
            again = self._again()
            if again is None and self._allocation.is_behind(self.admission.version):
                return None  # the outcomes that the next draw is to know are on their way
            self._pending[lane] = again or self._allocation.draw(self._fresh, lane=lane)
        drawn = self._pending[lane]
        peer = self.credits.pick(drawn.num_candidates, reserve=self._schedule.reserve)
        if peer is None:
            return None
        version = self.admission.version
        job = self._book(drawn.draw, drawn.num_candidates, "train", version, peer, drawn.rule)
        del self._pending[lane]
        self.admission.dispatched(job.group_id)
        return job

    def _again(self) -> Allotment | None:
        """What the next draw that starts again gets, if that is known."""
        if not self._redo:
            return None
        lost = self._redo[0]
        again = Allotment(lost.draw, lost.num_candidates, lost.rule) if lost.num_candidates else None
        again = again or self._passed.pop(lost.draw, None)
        if again is not None:
            self._redo.popleft()
        return again

    def _fresh(self) -> int:
        """The next draw that is to be allotted."""
        if self._redo and not self._redo[0].num_candidates:
            return self._redo.popleft().draw
        return self.rounds.next_draw(self._order.next)

    def _next_eval(self) -> GroupJob | None:
        evaluation = self._evaluation
        if evaluation is None or evaluation.all_started:
            return None
        peer = self.credits.pick(self._eval_samples)
        if peer is None:
            return None
        job = self._book(evaluation.num_started, self._eval_samples, "eval", evaluation.version, peer)
        evaluation.started(job.group_id)
        return job

    def _book(
        self,
        draw: int,
        num_candidates: int,
        purpose: Literal["train", "eval"],
        version: int,
        peer: str,
        rule: str = "",
    ) -> GroupJob:
        self.credits.spend(peer, num_candidates)
        group_id = self._next_group
        self._next_group += 1
        incarnation = self.credits.incarnation(peer)
        self._holder[group_id] = (peer, incarnation)
        training = purpose == "train"
        return GroupJob(
            group_id=group_id,
            draw=draw,
            prompt_index=self._order.prompt_of(draw) if training else draw,
            num_candidates=num_candidates,
            purpose=purpose,
            policy_version=version,
            peer=peer,
            incarnation=incarnation or 0,
            unfinished=self.rounds.unfinished if training else "keep",
            rule=rule,
        )
