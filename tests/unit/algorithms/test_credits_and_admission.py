"""Credits and admission through any order of losses: what is dispatched stays within every bound, and goes on.

The dispatcher, the credits at both ends, the order of training, and what a selector tells an allocator from the ledger
are the real ones; the actors around them, the links and the engines are played here. Links keep their order; a loss
takes what was on its way with it, or lets it come late.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from darts_async.algorithms.allocation import FixedMean
from darts_async.algorithms.dispatch import Dispatcher, GroupJob, ReplacementJob
from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.algorithms.ledger_records import (
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    LedgerRecord,
    NumbersReserved,
    StepTrained,
)
from darts_async.algorithms.places import Places
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.algorithms.rounds import Rounds
from darts_async.algorithms.run_draws import RunDraws
from darts_async.algorithms.staleness import Admission, StepPlanner
from darts_async.messages import (
    AllocatorHello,
    AllocatorStarted,
    Credits,
    DispatchState,
    DropBelow,
    EvalResult,
    GroupComplete,
    GroupOutcome,
    PlanAccepted,
    PolicyUpdate,
    ReplaceCandidate,
    RoleLost,
    StepDone,
    candidate_id,
    group_of,
)

_STEPS: Final = 4
_PER_STEP: Final = 2
_ETA: Final = 1
_IN_FLIGHT: Final = 3
_CAPACITY: Final = 7
_SAMPLES: Final = 2
_EVALS: Final = 2
_REPLICAS: Final = 2
_SCHEDULE: Final = EvalSchedule(every_steps=2, samples=_SAMPLES)
_SEEDS: Final = st.integers(0, 2**32)
_EVENTS: Final = st.integers(0, 120)
"""Between losses. A run without any takes a few hundred."""


@dataclass(frozen=True)
class Request:
    """A rollout request, as far as it matters here."""

    candidate: int
    incarnation: int
    allocator: int


@dataclass(frozen=True)
class Report:
    """The end of a candidate."""

    candidate: int
    ok: bool


class Replica:
    """One start of a generator."""

    def __init__(self, rank: int, incarnation: int) -> None:
        self.rank, self.incarnation = rank, incarnation
        self.places = Places(_CAPACITY)
        self.running: set[int] = set()
        self.inbox: deque[Any] = deque()
        """From the allocator and the selector, and of losses."""
        self.reports: deque[Report] = deque()

    def credits(self) -> Credits:
        places = self.places
        return Credits(
            replica=self.rank, incarnation=self.incarnation, allocator=places.allocator, granted_total=places.granted
        )

    def take(self, message: Any) -> None:
        match message:
            case Request():
                if message.incarnation == self.incarnation:
                    group = group_of(message.candidate)
                    if self.places.take(message.allocator, group) == "sample":
                        assert message.candidate not in self.running
                        self.running.add(message.candidate)
            case DropBelow():
                self.places.drop_below(message.group_id)
                for candidate in [c for c in self.running if self.places.is_over(group_of(c))]:
                    self.running.remove(candidate)
                    self.places.leave()
            case AllocatorStarted():
                self.places.serve(message.incarnation)
            case RoleLost():
                self.places.serve(message.incarnation + 1)

    def end(self, candidate: int, *, ok: bool) -> None:
        self.running.remove(candidate)
        self.reports.append(Report(candidate, ok))
        self.places.leave()


class Allocator:
    """One start of the allocator: what the actor does around its dispatcher."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.number = incarnation << 20
        self.placed = False
        self.knows_version = not incarnation
        self.jobs: dict[int, GroupJob] = {}
        self.waiting: GroupJob | None = None
        """Its plan is not accepted yet."""
        self.results: list[EvalResult] = []
        self.to_selector: deque[Any] = deque()
        self.inbox: deque[Any] = deque()
        """From the selector."""
        self.dispatcher = Dispatcher(
            admission=Admission(groups_per_step=_PER_STEP, eta=_ETA, steps=_STEPS, in_flight_groups=_IN_FLIGHT),
            order=PromptOrder(5, seed=1),
            allocation=FixedMean(2.5),
            steps=_STEPS,
            num_eval_prompts=_EVALS,
            eval_samples=_SAMPLES,
            schedule=_SCHEDULE,
        )
        self.ask()

    def ask(self) -> None:
        self.placed = False
        self.number += 1
        if self.waiting is not None:
            self.dispatcher.credits.refund(self.waiting.peer, self.waiting.num_candidates, self.waiting.incarnation)
            self.waiting = None
        self.to_selector.append(AllocatorHello(number=self.number))

    def next_request(self) -> ReplacementJob | None:
        """Plan what can be planned; a replacement needs no answer."""
        if not self.placed or self.waiting is not None:
            return None
        job = self.dispatcher.next_job()
        if isinstance(job, GroupJob):
            assert job.group_id not in self.jobs
            self.jobs[job.group_id] = self.waiting = job
            self.to_selector.append(job)
        return job if isinstance(job, ReplacementJob) else None

    def take(self, message: Any) -> GroupJob | None:
        """Return a group whose requests leave now."""
        if isinstance(message, DispatchState):
            if message.number == self.number and not self.placed:
                self.take_up(message)
            return None
        if not self.placed:
            return None
        dispatcher = self.dispatcher
        match message:
            case PlanAccepted():
                job, self.waiting = self.waiting, None
                assert job is not None and job.group_id == message.group_id
                return job
            case ReplaceCandidate():
                dispatcher.replace(message.group_id, message.candidate_id)
            case GroupComplete():
                dispatcher.admission.completed(message.group_id)
            case GroupOutcome(purpose="train"):
                self.jobs.pop(message.group_id)
                dispatcher.group_ended(message.group_id, trained=message.outcome == "trained")
            case GroupOutcome():
                score = dispatcher.evaluated(message.group_id, (1.0,), (1,))
                if score is not None:
                    result = EvalResult(
                        label=score.label,
                        policy_version=score.version,
                        reward=1.0,
                        response_length=1.0,
                        num_rollouts=score.num_rollouts,
                    )
                    self.results.append(result)
                    self.to_selector.append(result)
        return None

    def take_up(self, state: DispatchState) -> None:
        told = {version for version, *_ in state.evaluated}
        self.to_selector += [result for result in self.results if result.policy_version not in told]
        self.dispatcher.take_up(state)
        self.jobs = {group.group_id: self.dispatcher.adopted(group) for group in state.open}
        self.placed = True


@dataclass
class Group:
    """A group in the selector's hands."""

    job: GroupJob
    running: dict[int, tuple[int, int]]
    """Candidate to the start of the replica that has it."""
    num_replaced: int = 0
    released: bool = False


@dataclass
class Selector:
    """What the selector does for the allocator; every record is on the disk at once."""

    disk: list[LedgerRecord]
    draws: RunDraws = field(default_factory=lambda: RunDraws(Rounds(_PER_STEP), _PER_STEP))
    planner: StepPlanner = field(default_factory=lambda: StepPlanner(_PER_STEP, _ETA, _STEPS))
    groups: dict[int, Group] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    fence: int = 0
    first_free: int = 0
    reserved: int = 0
    replies: list[Any] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    @classmethod
    def rebuilt(cls, before: Selector) -> Selector:
        """From the disk, and from what the learner has."""
        new = cls(before.disk, lost=dict(before.lost))
        for record in before.disk:
            new.draws.feed(record)
        new.first_free = new.reserved = new.draws.first_group()
        new.groups = {number: group for number, group in before.groups.items() if group.released}
        new.planner.take_up(new.draws.num_released)
        new.write_off("selector_lost", before)
        return new

    def write(self, record: LedgerRecord) -> None:
        self.disk.append(record)
        self.draws.feed(record)

    def write_off(self, reason: str, before: Selector | None = None) -> None:
        self.fence = self.first_free
        for number, group in list((before or self).groups.items()):
            if not group.released:
                self.groups.pop(number, None)
                self.planner.forget(number)
                if group.job.purpose == "train":
                    self.write(GroupEnded(group_id=number, outcome="cancelled", reason=reason))

    def take(self, message: Any) -> None:
        match message:
            case AllocatorHello():
                self.write_off("allocator_lost")
                state = self.draws.state(number=message.number, first_group=self.first_free)
                self.replies.append(state)
            case GroupJob():
                self.plan(message)
            case EvalResult():
                self.write(
                    EvaluationScored(
                        label=message.label, version=message.policy_version, reward=1.0, response_length=1.0,
                        num_rollouts=message.num_rollouts,
                    )
                )  # fmt: skip
            case StepDone():
                for number in message.group_ids:
                    self.end(number, "trained")
                self.write(StepTrained(version=message.version, group_ids=message.group_ids))

    def plan(self, job: GroupJob) -> None:
        if job.group_id < self.fence:
            return
        assert job.group_id not in self.groups
        self.first_free = max(self.first_free, job.group_id + 1)
        if job.group_id >= self.reserved:
            self.reserved = job.group_id + 8
            self.write(NumbersReserved(below=self.reserved))
        ids = tuple(candidate_id(job.group_id, index) for index in range(job.num_candidates))
        place = (int(job.peer[-1]), job.incarnation)
        self.groups[job.group_id] = Group(job, dict.fromkeys(ids, place))
        if job.purpose == "train":
            self.write(
                GroupPlanned(
                    group_id=job.group_id, draw=job.draw, prompt_id=f"p{job.prompt_index}", rule="all", group_size=2,
                    keep_longest=0, candidate_ids=ids, dispatch_version=job.policy_version,
                )
            )  # fmt: skip
            self.planner.dispatched(job.group_id, job.policy_version)
        self.replies.append(PlanAccepted(group_id=job.group_id))
        self.heed_loss(place[0], self.lost.get(place[0], -1))

    def placed(self, job: ReplacementJob) -> None:
        """A replacement is about to be sent; if that start is known to be lost, it fails at once."""
        if (group := self.groups.get(job.group_id)) and job.candidate_id in group.running:
            rank = int(job.peer[-1])
            group.running[job.candidate_id] = (rank, job.incarnation)
            self.heed_loss(rank, self.lost.get(rank, -1))

    def heed_loss(self, rank: int, incarnation: int) -> None:
        self.lost[rank] = max(self.lost.get(rank, -1), incarnation)
        for group in list(self.groups.values()):
            for candidate, place in list(group.running.items()):
                if place[0] == rank and place[1] <= self.lost[rank]:
                    self.report(Report(candidate, ok=False), drop=False)

    def report(self, report: Report, *, drop: bool) -> None:
        number = group_of(report.candidate)
        group = self.groups.get(number)
        if group is None or report.candidate not in group.running:
            return
        place = group.running.pop(report.candidate)
        if not report.ok and group.job.purpose == "train" and group.num_replaced < group.job.num_candidates:
            new = candidate_id(number, group.job.num_candidates + group.num_replaced)
            group.num_replaced += 1
            group.running[new] = place
            self.replies.append(ReplaceCandidate(group_id=number, failed_id=report.candidate, candidate_id=new))
        if group.running:
            return
        if group.job.purpose == "eval":
            del self.groups[number]
            self.replies.append(
                GroupOutcome(group_id=number, prompt_id="p", purpose="eval", outcome="evaluated", rewards=(1.0,))
            )
            return
        self.replies.append(GroupComplete(group_id=number))
        if drop:
            self.end(number, "rejected")
            self.release(self.planner.dropped(number))
        else:
            self.release(self.planner.complete(number))

    def release(self, groups: list[tuple[int, int]]) -> None:
        for number, step in groups:
            self.groups[number].released = True
            self.released.append(number)
            self.write(GroupReleased(group_id=number, step=step, kept=(), lengths=()))

    def end(self, number: int, outcome: Any) -> None:
        group = self.groups.pop(number)
        self.write(GroupEnded(group_id=number, outcome=outcome))
        self.replies.append(GroupOutcome(group_id=number, prompt_id=f"p{group.job.prompt_index}", outcome=outcome))


class Losses(RuleBasedStateMachine):
    """One short run."""

    def __init__(self) -> None:
        super().__init__()
        self.selector = Selector([])
        self.allocator = Allocator(0)
        self.replicas = [Replica(rank, 0) for rank in range(_REPLICAS)]
        self.to_allocator: list[deque[Any]] = [deque([replica.credits()]) for replica in self.replicas]
        """From each replica."""
        self.news: deque[RoleLost] = deque()
        """Of losses, for the allocator."""
        self.selector_news: deque[RoleLost] = deque()
        self.learner: list[int] = []
        self.steps: deque[StepDone] = deque()
        self.versions: deque[PolicyUpdate] = deque()
        self.version = 0
        self.dispatched_at: dict[int, int] = {}
        self.is_calm = False

    # --- one thing at a time --------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        job = self.allocator.next_request()
        if job is not None:
            self.selector.placed(job)
            self.carry_out()
            self.request(job, job.candidate_id)

    def request(self, job: GroupJob | ReplacementJob, candidate: int) -> None:
        if self.allocator.dispatcher.may_send(job):
            replica = self.replicas[int(job.peer[-1])]
            replica.inbox.append(Request(candidate, job.incarnation, self.allocator.incarnation))

    def a_plan_arrives(self) -> None:
        if self.allocator.to_selector:
            message = self.allocator.to_selector.popleft()
            if isinstance(message, GroupJob):
                self.dispatched_at[message.group_id] = message.policy_version
            self.selector.take(message)
            if isinstance(message, AllocatorHello):
                for replica in self.replicas:
                    replica.inbox.append(DropBelow(group_id=self.selector.fence))
            self.carry_out()

    def carry_out(self) -> None:
        self.allocator.inbox += self.selector.replies
        self.learner += self.selector.released
        self.selector.replies.clear()
        self.selector.released.clear()

    def a_reply_arrives(self) -> None:
        allocator = self.allocator
        if not allocator.inbox or (isinstance(allocator.inbox[0], DispatchState) and not allocator.knows_version):
            return
        job = allocator.take(allocator.inbox.popleft())
        if job is not None:
            for index in range(job.num_candidates):
                self.request(job, candidate_id(job.group_id, index))

    def a_replica_hears(self, rank: int) -> None:
        replica = self.replicas[rank]
        if replica.inbox:
            replica.take(replica.inbox.popleft())
            self.to_allocator[rank].append(replica.credits())

    def a_candidate_ends(self, rank: int, which: int, *, ok: bool) -> None:
        replica = self.replicas[rank]
        if replica.running:
            replica.end(sorted(replica.running)[which % len(replica.running)], ok=ok)
            self.to_allocator[rank].append(replica.credits())

    def a_report_arrives(self, rank: int, *, drop: bool) -> None:
        if self.replicas[rank].reports:
            self.selector.report(self.replicas[rank].reports.popleft(), drop=drop)
            self.carry_out()

    def credits_arrive(self, rank: int) -> None:
        if self.to_allocator[rank]:
            message = self.to_allocator[rank].popleft()
            if message.allocator != self.allocator.incarnation:
                self.replicas[rank].inbox.append(AllocatorStarted(incarnation=self.allocator.incarnation))
            else:
                peer = f"generator-{rank}"
                self.allocator.dispatcher.credits.grant(peer, message.granted_total, message.incarnation)

    def the_learner_steps(self) -> None:
        if len(self.learner) >= _PER_STEP:
            groups, self.learner = self.learner[:_PER_STEP], self.learner[_PER_STEP:]
            for number in groups:
                assert 0 <= self.version - self.dispatched_at[number] <= _ETA, "too stale"
            self.version += 1
            self.steps.append(StepDone(version=self.version, group_ids=tuple(groups)))
            self.versions.append(PolicyUpdate(version=self.version, weights="w"))

    def a_step_is_heard_of(self) -> None:
        if self.steps:
            self.selector.take(self.steps.popleft())
            self.carry_out()

    def a_version_is_heard_of(self) -> None:
        if self.versions:
            self.allocator.dispatcher.published(self.versions.popleft().version)
            self.allocator.knows_version = True

    def a_loss_is_heard_of(self) -> None:
        if self.news:
            lost = self.news.popleft()
            if lost.role == "selector":
                self.allocator.ask()
            else:
                self.allocator.dispatcher.credits.forget(f"generator-{lost.rank}", lost.incarnation)

    def the_selector_hears_of_a_loss(self) -> None:
        if self.selector_news:
            lost = self.selector_news.popleft()
            self.selector.heed_loss(lost.rank, lost.incarnation)
            self.carry_out()

    def goes_on(self, seed: int, num: int) -> None:
        """Many small things happen, in some order, none of them a loss."""
        rng = random.Random(seed)
        for _ in range(num):
            self.something_happens(rng)
            self.within_bounds()

    def something_happens(self, rng: random.Random) -> None:
        rank = rng.randrange(_REPLICAS)
        replica, allocator = self.replicas[rank], self.allocator
        ok, drop = self.is_calm or rng.random() < 0.95, not self.is_calm and rng.random() < 0.1
        deeds: list[tuple[object, Callable[[], None]]] = [
            (allocator.placed and allocator.waiting is None, self.dispatch),
            (allocator.to_selector, self.a_plan_arrives),
            (allocator.inbox, self.a_reply_arrives),
            (replica.inbox, lambda: self.a_replica_hears(rank)),
            (replica.running, lambda: self.a_candidate_ends(rank, rng.randrange(9), ok=ok)),
            (replica.reports, lambda: self.a_report_arrives(rank, drop=drop)),
            (self.to_allocator[rank], lambda: self.credits_arrive(rank)),
            (len(self.learner) >= _PER_STEP, self.the_learner_steps),
            (self.steps, self.a_step_is_heard_of),
            (self.versions, self.a_version_is_heard_of),
            (self.news, self.a_loss_is_heard_of),
            (self.selector_news, self.the_selector_hears_of_a_loss),
        ]
        possible = [deed for can, deed in deeds if can]
        if possible:
            rng.choice(possible)()

    # --- losses ---------------------------------------------------------------------------------------------------

    @rule(seed=_SEEDS, num=_EVENTS, arrives=st.integers(0, 6), late=st.integers(0, 3))
    def the_allocator_is_killed(self, seed: int, num: int, arrives: int, late: int) -> None:
        """Of what it sent, some is on its way; some of what was said to it reaches the next one."""
        self.goes_on(seed, num)
        old = self.allocator
        self.allocator = Allocator(old.incarnation + 1)
        self.allocator.to_selector.extendleft(reversed(list(itertools.islice(old.to_selector, arrives))))
        self.allocator.inbox += list(old.inbox)[max(len(old.inbox) - late, 0) :]
        self.versions = deque([PolicyUpdate(version=self.version, weights="w")])
        self.news = deque(lost for lost in self.news if lost.role == "generator")
        for replica in self.replicas:
            replica.inbox.append(RoleLost(role="allocator", rank=0, incarnation=old.incarnation))

    @rule(seed=_SEEDS, num=_EVENTS, gone=st.integers(0, 6), heard=st.integers(0, 9))
    def the_selector_is_killed(self, seed: int, num: int, gone: int, heard: int) -> None:
        """Of what was on its way to it some is gone; of its replies the last ones."""
        self.goes_on(seed, num)
        for _ in range(min(gone, len(self.allocator.to_selector))):
            self.allocator.to_selector.popleft()
        while len(self.allocator.inbox) > heard:
            self.allocator.inbox.pop()
        for replica in self.replicas:
            replica.reports.clear()
        self.selector = Selector.rebuilt(self.selector)
        for replica in self.replicas:
            replica.inbox.append(DropBelow(group_id=self.selector.fence))
        self.news.append(RoleLost(role="selector", rank=0, incarnation=0))

    @rule(seed=_SEEDS, num=_EVENTS, rank=st.integers(0, _REPLICAS - 1), late=st.booleans())
    def a_generator_is_killed(self, seed: int, num: int, rank: int, late: bool) -> None:
        """The next start knows of no allocator but the first, and of no fence until it has said hello."""
        self.goes_on(seed, num)
        old = self.replicas[rank]
        lost = RoleLost(role="generator", rank=rank, incarnation=old.incarnation)
        self.news.append(lost)
        self.selector_news.append(lost)
        self.replicas[rank] = new = Replica(rank, old.incarnation + 1)
        if late:
            new.inbox += old.inbox
            new.reports += old.reports
        new.inbox.append(DropBelow(group_id=self.selector.fence))
        self.to_allocator[rank].append(new.credits())

    # --- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def within_bounds(self) -> None:
        dispatcher = self.allocator.dispatcher
        assert dispatcher.admission.in_flight <= _IN_FLIGHT
        if self.allocator.placed:
            assert dispatcher.admission.trained + dispatcher.admission.live <= dispatcher.admission.horizon
        for replica in self.replicas:
            places = replica.places
            assert len(replica.running) == places.num_held
            assert places.free >= 0 and places.num_held + places.free <= _CAPACITY
            assert dispatcher.credits.free(f"generator-{replica.rank}") >= 0

    @invariant()
    def each_draw_is_started_once_or_again_when_it_was_lost(self) -> None:
        live: dict[int, int] = {}
        seen, trained = set(), set()
        lost: dict[int, int] = {}
        """Draw to the last group it was lost with."""
        overtaken: dict[int, set[int]] = {}
        """Group of a fresh draw to the draws that were to start again when it was planned."""
        for record in self.selector.disk:
            if isinstance(record, GroupPlanned):
                assert record.draw not in live.values() and record.draw not in trained
                assert record.group_id not in seen
                if record.draw not in lost:
                    overtaken[record.group_id] = set(lost)
                lost.pop(record.draw, None)
                live[record.group_id] = record.draw
                seen.add(record.group_id)
            elif isinstance(record, GroupEnded):
                draw = live.pop(record.group_id)
                if record.starts_again:
                    lost[draw] = record.group_id
                    overtaken.pop(record.group_id, None)  # it was on its way when the others were lost
                else:
                    trained.add(draw)
        if self.is_calm:
            assert not any(overtaken.values()), "a fresh draw went before one that was lost"
        scored = [record.version for record in self.selector.disk if isinstance(record, EvaluationScored)]
        assert len(set(scored)) == len(scored), "evaluated twice"

    def teardown(self) -> None:
        """When nothing more is lost, the run comes to its end."""
        self.is_calm = True
        rng = random.Random(0)
        for _ in range(20_000):
            if self.allocator.dispatcher.phase == "complete" and not self.allocator.to_selector:
                break
            self.something_happens(rng)
            self.within_bounds()
        assert self.allocator.dispatcher.phase == "complete", self.allocator.dispatcher.pending()
        for _ in range(1000):
            self.something_happens(rng)
        for replica in self.replicas:
            assert not replica.inbox and not self.to_allocator[replica.rank]
            assert replica.places.num_held + replica.places.free == _CAPACITY
            assert self.allocator.dispatcher.credits.free(f"generator-{replica.rank}") == replica.places.free
        self.each_draw_is_started_once_or_again_when_it_was_lost()
        disk = self.selector.disk
        draws = {record.group_id: record.draw for record in disk if isinstance(record, GroupPlanned)}
        ended = {record.group_id: record for record in disk if isinstance(record, GroupEnded)}
        trained = [draws[number] for number, record in ended.items() if record.outcome == "trained"]
        assert len(trained) == len(set(trained)) == _STEPS * _PER_STEP
        over = {draws[number] for number, record in ended.items() if not record.starts_again}
        state = self.selector.draws.state(number=0, first_group=0)
        live = {draw for number, draw in draws.items() if number not in ended}
        assert set(range(state.next_draw)) == over | live | {lost.draw for lost in state.redo}
        scored = [record.version for record in disk if isinstance(record, EvaluationScored)]
        assert scored == [0, 2, _STEPS]


TestCreditsAndAdmission = Losses.TestCase
TestCreditsAndAdmission.settings = settings(max_examples=60, stateful_step_count=8, deadline=None)
