"""Generators that die and come back, between the allocator's and the selector's decisions, in any order of the news.

Plays the links with queues of their own, so that each side hears of a loss before or after whatever else is under way.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from darts_async.algorithms.allocation import FixedMean
from darts_async.algorithms.credits import CreditBook
from darts_async.algorithms.dispatch import Dispatcher, GroupJob
from darts_async.algorithms.effects import Effects
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import CandidateEnded, RunOpened
from darts_async.algorithms.lost_replicas import GENERATOR_LOST
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import Admission, StepPlanner
from darts_async.messages import (
    CandidatePlaced,
    ChunksDropped,
    GroupComplete,
    GroupOutcome,
    GroupPlan,
    Progress,
    ReplaceCandidate,
    RolloutEnded,
    StepDone,
    TrainGroup,
    Trajectory,
    VersionSpan,
    candidate_id,
)

_REPLICAS = 3
_SLOTS = 5
_SIZE = 2
_PER_STEP = 2
_ETA = 1


class Replica:
    """One generator: what its present start has granted and been sent."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.incarnation = 0
        self.alive = True
        self.granted = _SLOTS
        self.taken = 0
        self.running: dict[int, int] = {}
        self.late: list[Any] = []
        """Messages of starts that are over which nobody has read yet."""

    @property
    def name(self) -> str:
        return f"generator-{self.rank}"


def _trajectory(replica: int, candidate: int, tokens: int) -> Trajectory:
    return Trajectory(
        candidate_id=candidate,
        replica=replica,
        finish_reason="stop",
        response_tokens=np.zeros(tokens, np.int32),
        behaviour_logprobs=np.zeros(tokens, np.float32),
        version_spans=(VersionSpan(0, 0),),
    )


class Losses(RuleBasedStateMachine):
    """The real dispatcher and the real selector; links, generators, rewards and the learner are played."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher(
            admission=Admission(groups_per_step=_PER_STEP, eta=_ETA, steps=50, in_flight_groups=4),
            order=PromptOrder(5, seed=1),
            allocation=FixedMean(3.0),
            steps=50,
            num_eval_prompts=0,
            eval_samples=1,
        )
        self.selector = Selector(planner=StepPlanner(_PER_STEP, _ETA, 50), run_seed=0, max_response_tokens=64)
        self.replicas = [Replica(rank) for rank in range(_REPLICAS)]
        self.to_allocator: deque[Any] = deque()
        """Credits and losses as the allocator will hear of them."""
        self.to_selector: deque[Any] = deque()
        self.plans: deque[GroupPlan | CandidatePlaced] = deque()
        self.waiting: dict[int, GroupJob] = {}
        """Planned, not accepted yet."""
        self.jobs: dict[int, GroupJob] = {}
        self.ready: list[int] = []
        self.version = 0
        self.audit = LedgerAudit()
        self.audit.feed(RunOpened(run="r", seed=0, rule="shortest"))
        self.ends: dict[int, CandidateEnded] = {}
        for replica in self.replicas:
            self.to_allocator.append(("credits", replica, 0, _SLOTS))

    # --- the allocator ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.to_allocator)
    @rule()
    def allocator_hears(self) -> None:
        kind, replica, incarnation, total = self.to_allocator.popleft()
        if kind == "credits":
            self.dispatcher.credits.grant(replica.name, total, incarnation)
        else:
            self.dispatcher.credits.forget(replica.name, incarnation)

    @precondition(lambda self: not self.waiting)
    @rule()
    def allocator_dispatches(self) -> None:
        job = self.dispatcher.next_job()
        if isinstance(job, GroupJob):
            self.waiting[job.group_id] = job
            self.plans.append(
                GroupPlan(
                    group_id=job.group_id,
                    draw=job.draw,
                    replica=int(job.peer[-1]),
                    incarnation=job.incarnation,
                    prompt_id=f"p{job.prompt_index}",
                    rule="shortest",
                    group_size=_SIZE,
                    keep_longest=0,
                    candidate_ids=tuple(candidate_id(job.group_id, index) for index in range(job.num_candidates)),
                    dispatch_version=job.policy_version,
                    prompt_tokens=np.zeros(1, np.int32),
                )
            )
        elif job is not None and job.group_id in self.jobs:
            rank = int(job.peer[-1])
            placed = CandidatePlaced(candidate_id=job.candidate_id, replica=rank, incarnation=job.incarnation)
            self.plans.append(placed)
            self.send(rank, job.incarnation, job.candidate_id, may=self.dispatcher.may_send(job))

    def send(self, rank: int, incarnation: int, candidate: int, *, may: bool) -> None:
        """As the allocator's actor and the generator's door do."""
        replica = self.replicas[rank]
        if may and replica.alive and replica.incarnation == incarnation:
            replica.taken += 1
            replica.running[candidate] = 0

    # --- the selector -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.plans)
    @rule()
    def selector_takes_a_plan(self) -> None:
        message = self.plans.popleft()
        if isinstance(message, CandidatePlaced):
            self.selector.on_placed(message)
            self.carry_out()
            return
        self.selector.on_plan("allocator-0", message)
        # Its acceptance reaches the allocator before anything else about the group does.
        job = self.jobs[message.group_id] = self.waiting.pop(message.group_id)
        may = self.dispatcher.may_send(job)
        self.carry_out()
        for candidate in message.candidate_ids:
            self.send(int(job.peer[-1]), job.incarnation, candidate, may=may)

    @precondition(lambda self: self.to_selector)
    @rule()
    def selector_hears_of_a_loss(self) -> None:
        replica, incarnation = self.to_selector.popleft()
        self.selector.on_generator_lost(replica.rank, incarnation)
        self.carry_out()

    def carry_out(self) -> None:
        effects = self.selector.take_effects() or Effects()
        for record in effects.records:
            self.audit.feed(record)
            if isinstance(record, CandidateEnded):
                assert record.candidate_id not in self.ends
                self.ends[record.candidate_id] = record
        for _, reply in effects.replies:
            self.allocator_takes(reply)
        for cancel in effects.cancels:
            for replica in self.replicas:
                for candidate in cancel.candidate_ids:
                    if candidate in replica.running and cancel.replica in (None, replica.rank):
                        self.report(replica, self.over(replica, candidate, "cancelled"))
        for message in effects.groups:
            if isinstance(message, TrainGroup):
                self.ready.append(message.group_id)
            else:
                assert isinstance(message, ChunksDropped)
        for wanted in effects.scores:
            self.selector.on_reward(wanted.candidate_id, float(wanted.candidate_id % 3))
        if effects.scores or effects.cancels:
            self.carry_out()

    def allocator_takes(self, reply: Any) -> None:
        if isinstance(reply, ReplaceCandidate):
            self.dispatcher.replace(reply.group_id, reply.candidate_id)
        elif isinstance(reply, GroupComplete):
            self.dispatcher.admission.completed(reply.group_id)
        elif isinstance(reply, GroupOutcome):
            self.jobs.pop(reply.group_id, None)
            self.dispatcher.group_ended(reply.group_id, trained=reply.outcome == "trained")

    # --- the generators ---------------------------------------------------------------------------------------------

    def over(self, replica: Replica, candidate: int, how: str) -> Any:
        """A candidate leaves a generator, which grants anew; return its report."""
        tokens = replica.running.pop(candidate)
        replica.granted += 1
        self.to_allocator.append(("credits", replica, replica.incarnation, replica.granted))
        if how == "finished":
            return _trajectory(replica.rank, candidate, tokens + 1)
        return RolloutEnded(candidate_id=candidate, replica=replica.rank, reason=how, num_tokens=tokens)  # type: ignore[arg-type]

    def report(self, replica: Replica, message: Any) -> None:
        if isinstance(message, Trajectory):
            self.selector.on_trajectory(message)
        elif isinstance(message, Progress):
            self.selector.on_progress(message)
        else:
            self.selector.on_ended(message)
        self.carry_out()

    @rule(rank=st.integers(0, _REPLICAS - 1), which=st.integers(0, 99), tokens=st.integers(1, 20))
    def decodes(self, rank: int, which: int, tokens: int) -> None:
        replica = self.replicas[rank]
        if replica.running:
            candidate = sorted(replica.running)[which % len(replica.running)]
            replica.running[candidate] += tokens
            ids, counts = np.array([candidate], np.int64), np.array([replica.running[candidate]], np.int32)
            self.report(replica, Progress(replica=rank, candidate_ids=ids, num_tokens=counts))

    @rule(
        rank=st.integers(0, _REPLICAS - 1),
        which=st.integers(0, 99),
        how=st.sampled_from(["finished", "finished", "finished", "failed"]),
        late=st.booleans(),
    )
    def a_candidate_ends(self, rank: int, which: int, how: str, late: bool) -> None:
        replica = self.replicas[rank]
        if replica.running:
            message = self.over(replica, sorted(replica.running)[which % len(replica.running)], how)
            if late:
                replica.late.append(message)
            else:
                self.report(replica, message)

    @rule(rank=st.integers(0, _REPLICAS - 1))
    def late_news_arrive(self, rank: int) -> None:
        late, self.replicas[rank].late = self.replicas[rank].late, []
        for message in late:
            self.report(self.replicas[rank], message)

    @rule(rank=st.integers(0, _REPLICAS - 1))
    def a_generator_dies(self, rank: int) -> None:
        replica = self.replicas[rank]
        if replica.alive:
            replica.alive = False
            replica.running = {}
            self.to_allocator.append(("lost", replica, replica.incarnation, 0))
            self.to_selector.append((replica, replica.incarnation))

    @rule(rank=st.integers(0, _REPLICAS - 1))
    def a_generator_comes_back(self, rank: int) -> None:
        replica = self.replicas[rank]
        if not replica.alive:
            replica.alive = True
            replica.incarnation += 1
            replica.granted, replica.taken = _SLOTS, 0
            self.to_allocator.append(("credits", replica, replica.incarnation, _SLOTS))

    # --- the learner ------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.ready) >= _PER_STEP)
    @rule()
    def the_learner_makes_a_step(self) -> None:
        self.version += 1
        groups, self.ready = self.ready[:_PER_STEP], self.ready[_PER_STEP:]
        self.selector.on_step_done(StepDone(version=self.version, group_ids=tuple(groups)))
        self.carry_out()
        self.dispatcher.published(self.version)

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def no_start_of_a_replica_has_more_than_it_granted(self) -> None:
        for replica in self.replicas:
            assert replica.taken <= replica.granted
            assert len(replica.running) <= _SLOTS

    @invariant()
    def admission_holds(self) -> None:
        admission = self.dispatcher.admission
        assert admission.trained + admission.live <= (_ETA + 1 + self.version) * _PER_STEP
        assert admission.in_flight <= 4

    @invariant()
    def the_books_balance(self) -> None:
        self.selector.books.ledger.check()
        assert not self.audit.violations
        assert not self.selector.protocol_errors

    def settle(self) -> None:
        """Bring every replica back and let all news arrive."""
        for replica in self.replicas:
            self.a_generator_comes_back(replica.rank)
            self.late_news_arrive(replica.rank)
        for _ in range(300):
            while self.to_selector:
                self.selector_hears_of_a_loss()
            while self.to_allocator:
                self.allocator_hears()
            while self.plans:
                self.selector_takes_a_plan()
            if not self.waiting:
                self.allocator_dispatches()
            if not (self.plans or self.to_allocator or self.waiting):
                break

    def teardown(self) -> None:
        """Every candidate runs somewhere or has ended; nothing is lost in between, and the run can go on to its end."""
        self.settle()
        running = {candidate for replica in self.replicas for candidate in replica.running}
        awaited = {candidate for candidate, entry in self.selector.books.ledger._open.items() if entry.tokens is None}
        queued = {candidate for _, candidate in self.dispatcher._replacements}
        assert awaited - queued == running
        for end in self.ends.values():
            assert end.estimated == (end.reason == GENERATOR_LOST or (end.estimated and end.state == "cancelled_tail"))
        target = self.version + 2
        for _ in range(200):
            if self.version >= target:
                break
            self.settle()
            for replica in self.replicas:
                for candidate in sorted(replica.running):
                    if candidate in replica.running:
                        self.report(replica, self.over(replica, candidate, "finished"))
            if len(self.ready) >= _PER_STEP:
                self.the_learner_makes_a_step()
            self.no_start_of_a_replica_has_more_than_it_granted()
        assert self.version >= target, "it hangs"
        self.selector.close()
        for record in (self.selector.take_effects() or Effects()).records:
            self.audit.feed(record)
        self.audit.finish(live=False)
        assert not self.audit.violations


Losses.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLosses = Losses.TestCase


def test_totals_of_a_start_that_is_over_mean_nothing():
    book = CreditBook()
    assert book.grant("g", 10)
    book.spend("g", 7)
    assert book.forget("g", 0) and not book.forget("g", 0)
    assert (book.free("g"), book.peers, book.incarnation("g"), book.pick(1)) == (0, (), None, None)
    assert not book.grant("g", 50)  # of the dead start, late
    assert book.free("g") == 0
    assert book.grant("g", 4, incarnation=1)
    assert (book.free("g"), book.incarnation("g")) == (4, 1)
    assert not book.grant("g", 6, incarnation=1)
    assert not book.forget("g", 0)  # late news of the first loss
    assert book.free("g") == 6
    assert book.grant("g", 3, incarnation=3)  # the losses in between are known by this alone
    assert (book.free("g"), book.incarnation("g")) == (3, 3)
