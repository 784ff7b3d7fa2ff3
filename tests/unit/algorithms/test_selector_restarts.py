"""A ledger with restarts: a selector that is killed at any record and rebuilt, beside losses of everyone else.

The selector is the real one, and so is what reads the ledger; disk, links, allocator, generators and learner are
played here. Messages leave only when the records before them are on the disk; a kill keeps any number of the others,
and of what was on its way to somebody any part may be lost or come late.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from darts_async.algorithms.effects import Drop, ScoreWanted
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import GroupEnded, LedgerRecord, RunOpened, RunReopened
from darts_async.algorithms.rounds import Rounds
from darts_async.algorithms.run_draws import RunDraws
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.selector_recovery import SelectorRecovery
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import (
    AllocatorHello,
    CandidatePlaced,
    DispatchState,
    GroupComplete,
    GroupOutcome,
    GroupPlan,
    GroupSwept,
    LearnerState,
    PlanAccepted,
    Progress,
    ReplaceCandidate,
    RoleLost,
    RolloutEnded,
    StateTaken,
    StepDone,
    TrainedStep,
    TrainGroup,
    Trajectory,
    VersionSpan,
    candidate_id,
    group_of,
)

_PER_STEP = 2
_STEPS = 3
_ETA = 1
_REPLICAS = 2
_SIZE = 2
_CAP = 64


class Generator:
    """One replica: what its present start runs, and what its starts have said."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.incarnation = 0
        self.fence = 0
        self.running: dict[int, int] = {}
        self.out: deque[Any] = deque()
        self.has_hello = True

    def request(self, candidate: int, incarnation: int) -> None:
        if incarnation == self.incarnation and group_of(candidate) >= self.fence:
            assert candidate not in self.running
            self.running[candidate] = 0

    def end(self, candidate: int, how: str) -> None:
        tokens = self.running.pop(candidate)
        if how == "finished":
            self.out.append(
                Trajectory(
                    candidate_id=candidate,
                    replica=self.rank,
                    finish_reason="stop",
                    response_tokens=np.zeros(tokens + 1, np.int32),
                    behaviour_logprobs=np.zeros(tokens + 1, np.float32),
                    version_spans=(VersionSpan(0, 0),),
                )
            )
        else:
            self.out.append(RolloutEnded(candidate_id=candidate, replica=self.rank, reason=how, num_tokens=tokens))  # type: ignore[arg-type]

    def drop_below(self, fence: int) -> None:
        self.fence = max(self.fence, fence)
        for candidate in [c for c in self.running if group_of(c) < fence]:
            self.end(candidate, "cancelled")


class Allocator:
    """Plans one group at a time, each draw once, and again what it is told to."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.number = incarnation << 20
        self.out: deque[Any] = deque()
        self.placed = False
        self.next_group = self.next_draw = self.trained = 0
        self.redo: list[int] = []
        self.live: dict[int, int] = {}
        """Group to draw."""
        self.evaluations: set[int] = set()
        self.waits_for: GroupPlan | None = None
        self.plans: dict[int, GroupPlan] = {}
        self.ask()

    def ask(self) -> None:
        self.number += 1
        self.placed, self.waits_for = False, None
        self.out.append(AllocatorHello(number=self.number))

    def plan(self, version: int, replica: int, incarnation: int, num: int, *, evaluates: bool) -> None:
        fits = self.trained + len(self.live) < min((_ETA + 1 + version), _STEPS) * _PER_STEP
        if not self.placed or self.waits_for is not None or not (fits or evaluates):
            return
        draw, group_id = 0, self.next_group
        self.next_group += 1
        if evaluates:
            self.evaluations.add(group_id)
        elif self.redo:
            draw = self.redo.pop(0)
        else:
            draw, self.next_draw = self.next_draw, self.next_draw + 1
        if not evaluates:
            assert draw not in self.live.values()
            self.live[group_id] = draw
        self.waits_for = self.plans[group_id] = GroupPlan(
            group_id=group_id,
            draw=draw,
            replica=replica,
            incarnation=incarnation,
            prompt_id=f"p{draw}",
            purpose="eval" if evaluates else "train",
            rule="all" if evaluates else "shortest",
            group_size=num if evaluates else _SIZE,
            keep_longest=0,
            candidate_ids=tuple(candidate_id(group_id, index) for index in range(num)),
            dispatch_version=0 if evaluates else version,
            max_staleness=_STEPS,
            prompt_tokens=np.zeros(1, np.int32),
        )
        self.out.append(self.waits_for)

    def take(self, state: DispatchState) -> None:
        if state.number != self.number or self.placed:
            return
        self.placed = True
        self.next_group = max(self.next_group, state.first_group)
        self.next_draw, self.trained = state.next_draw, state.trained
        self.redo = [lost.draw for lost in state.redo]
        self.live = {group.group_id: group.draw for group in state.open}
        self.evaluations.clear()
        self.plans.clear()
        draws = [*self.redo, *self.live.values()]
        assert len(set(draws)) == len(draws) and all(draw < self.next_draw for draw in draws)
        for lost in state.redo:
            assert lost.num_candidates >= _SIZE and lost.rule == "shortest"


class Learner:
    """Has a disk that outlives it: a journal of steps, and the groups of the open step."""

    def __init__(self) -> None:
        self.steps: list[TrainedStep] = []
        self.open: list[int] = []
        self.trained: list[int] = []
        self.epoch = self.answered = 0
        self.out: deque[Any] = deque()
        self.sweeps: set[int] = set()

    def tell(self) -> None:
        self.epoch += 1
        version = len(self.steps)
        self.out.append(
            LearnerState(epoch=self.epoch, version=version, steps=tuple(self.steps), received=tuple(self.open))
        )

    def take(self, message: Any, *, sweep: bool) -> None:
        if isinstance(message, StateTaken):
            if message.epoch == self.epoch:
                self.answered = message.epoch
                assert not message.over  # nothing that it received was ended without it
        elif isinstance(message, TrainGroup) and message.epoch == self.epoch:
            assert self.answered == self.epoch
            assert message.group_id not in self.open and message.group_id not in self.trained
            if sweep:
                self.sweeps.add(message.group_id)
                self.out.append(GroupSwept(group_id=message.group_id, staleness=9))
            else:
                self.open.append(message.group_id)

    def step(self, *, tells: bool) -> None:
        if self.answered == self.epoch and len(self.open) >= _PER_STEP:
            groups, self.open = tuple(self.open[:_PER_STEP]), self.open[_PER_STEP:]
            self.trained += groups
            self.steps.append(TrainedStep(len(self.steps) + 1, groups))
            if tells:
                self.out.append(StepDone(version=len(self.steps), group_ids=groups))


class Restarts(RuleBasedStateMachine):
    """One run of few steps, with more losses than any run will see."""

    def __init__(self) -> None:
        super().__init__()
        self.disk: list[LedgerRecord] = []
        self.buffer: list[LedgerRecord] = [RunOpened(run="r", seed=0, rule="shortest")]
        self.outbox: deque[tuple[str, Any]] = deque()
        """What the selector has decided to send, in order."""
        self.scores: deque[ScoreWanted] = deque()
        self.to_learner: deque[Any] = deque()
        self.to_allocator: deque[Any] = deque()
        self.news: deque[RoleLost] = deque()
        self.late: deque[Any] = deque()
        """Said by starts of roles that are over."""
        self.selector = self.new_selector()
        self.generators = [Generator(rank) for rank in range(_REPLICAS)]
        self.allocator = Allocator(0)
        self.learner = Learner()
        self.learner_knows = True
        """Of the last loss of the selector."""
        self.allocator_knows = True
        self.draws: dict[int, int] = {}
        """Of every group that was planned."""
        self.is_calm = False

    @staticmethod
    def new_selector() -> Selector:
        planner = StepPlanner(_PER_STEP, _STEPS, _STEPS)
        return Selector(planner=planner, run_seed=0, max_response_tokens=_CAP)

    # --- the selector -----------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        effects = self.selector.take_effects()
        if effects is None:
            return
        self.buffer += effects.records
        self.outbox += [("cancels", cancel) for cancel in effects.cancels]
        self.outbox += [("replies", reply) for _, reply in effects.replies]
        self.outbox += [("groups", group) for group in effects.groups]
        self.scores += effects.scores

    def hear(self, message: Any) -> None:
        selector = self.selector
        match message:
            case GroupPlan():
                selector.on_plan("allocator-0", message)
                self.draws[message.group_id] = message.draw
            case CandidatePlaced():
                selector.on_placed(message)
            case AllocatorHello():
                selector.on_allocator_hello("allocator-0", message.number)
            case Progress():
                selector.on_progress(message)
            case Trajectory():
                selector.on_trajectory(message)
            case RolloutEnded():
                selector.on_ended(message)
            case StepDone():
                selector.on_step_done(message)
            case GroupSwept():
                selector.on_swept(message)
            case LearnerState():
                selector.on_learner_state(message)
            case RoleLost():
                selector.on_role_lost(message.role, message.rank, message.incarnation)
        self.carry_out()

    @rule(link=st.sampled_from(["cancels", "replies", "groups"]))
    def the_selector_sends(self, link: str) -> None:
        """The first message of a link leaves, all records so far being on the disk."""
        found = next((item for item in self.outbox if item[0] == link), None)
        if found is None:
            return
        self.outbox.remove(found)
        message = found[1]
        if link == "cancels" and not isinstance(message, Drop):
            for generator in self.generators:
                for candidate in message.candidate_ids:
                    if candidate in generator.running and message.replica in (None, generator.rank):
                        generator.end(candidate, "cancelled")
            return
        self.disk += self.buffer
        self.buffer = []
        if link == "cancels":
            for generator in self.generators:
                if generator.has_hello:
                    generator.drop_below(message.below)
        elif link == "replies":
            self.to_allocator.append(message)
        else:
            self.to_learner.append(message)

    @precondition(lambda self: self.scores)
    @rule(fails=st.sampled_from([False] * 7 + [True]))
    def a_score_is_in(self, fails: bool) -> None:
        wanted = self.scores.popleft()
        if fails and not self.is_calm:
            self.selector.on_reward_failed(wanted.candidate_id, "timeout")
        else:
            self.selector.on_reward(wanted.candidate_id, float(wanted.candidate_id % 3))
        self.carry_out()

    @rule(
        last=st.sampled_from(["nothing", "a plan", "a report", "a score", "a step", "a loss"]),
        kept=st.integers(0, 12),
        lost=st.integers(0, 8),
        to_learner=st.integers(0, 3),
    )
    def the_selector_is_killed(self, last: str, kept: int, lost: int, to_learner: int) -> None:
        """Any prefix of what it had not flushed is on the disk. Another one reads it."""
        if last == "a plan" and self.allocator.out:
            self.a_plan_arrives()
        elif last == "a report":
            self.a_report_arrives(kept % _REPLICAS)
        elif last == "a score" and self.scores:
            self.a_score_is_in(False)
        elif last == "a step" and self.learner.out:
            self.news_of_a_step_arrive()
        elif last == "a loss" and self.news:
            self.the_selector_hears_of_a_loss()
        self.disk += self.buffer[:kept]
        self.buffer = []
        self.outbox.clear()
        self.scores.clear()
        while len(self.to_learner) > to_learner:
            self.to_learner.pop()
        for sender in (self.allocator, self.learner, *self.generators):
            for _ in range(min(lost, len(sender.out))):  # they were on their way
                sender.out.popleft()
        self.news.clear()
        for generator in self.generators:  # a newcomer is told of the last start of each that is over
            if generator.incarnation:
                lost = RoleLost(role="generator", rank=generator.rank, incarnation=generator.incarnation - 1)
                self.news.append(lost)
        self.audit_ledger()
        recovery = SelectorRecovery(max_response_tokens=_CAP, run_seed=0, draws=RunDraws(Rounds(_PER_STEP), _PER_STEP))
        for record in self.disk:
            recovery.feed(record)
        self.selector = self.new_selector()
        if recovery.opened:
            self.buffer = [RunReopened(cut_bytes=0)]
            self.selector.take_up(recovery)
        else:
            assert not self.disk
            self.buffer = [RunOpened(run="r", seed=0, rule="shortest")]
        self.learner_knows = self.allocator_knows = False
        for generator in self.generators:
            generator.has_hello = False
        self.carry_out()

    @precondition(lambda self: self.news)
    @rule()
    def the_selector_hears_of_a_loss(self) -> None:
        self.hear(self.news.popleft())

    @precondition(lambda self: self.late)
    @rule()
    def something_comes_late(self) -> None:
        self.hear(self.late.popleft())

    # --- the allocator ----------------------------------------------------------------------------------------------

    @rule(
        replica=st.integers(0, _REPLICAS - 1),
        num=st.integers(_SIZE, 3),
        evaluates=st.sampled_from([False] * 5 + [True]),
        behind=st.sampled_from([0, 0, 0, 1]),
    )
    def the_allocator_plans(self, replica: int, num: int, evaluates: bool, behind: int) -> None:
        incarnation = max(0, self.generators[replica].incarnation - behind)
        evaluates = evaluates and not self.is_calm
        self.allocator.plan(len(self.learner.steps), replica, incarnation, num, evaluates=evaluates)

    @precondition(lambda self: self.allocator.out)
    @rule()
    def a_plan_arrives(self) -> None:
        self.hear(self.allocator.out.popleft())

    @precondition(lambda self: self.to_allocator)
    @rule(replica=st.integers(0, _REPLICAS - 1))
    def the_allocator_hears(self, replica: int) -> None:
        message, allocator = self.to_allocator.popleft(), self.allocator
        if isinstance(message, DispatchState):
            allocator.take(message)
            return
        if not allocator.placed:
            return
        match message:
            case PlanAccepted(group_id=group_id):
                plan, allocator.waits_for = allocator.waits_for, None
                assert plan is not None and plan.group_id == group_id
                for candidate in plan.candidate_ids:
                    self.generators[plan.replica].request(candidate, plan.incarnation)
            case ReplaceCandidate():
                generator = self.generators[replica]
                placed = CandidatePlaced(
                    candidate_id=message.candidate_id, replica=replica, incarnation=generator.incarnation
                )
                allocator.out.append(placed)
                generator.request(message.candidate_id, generator.incarnation)
            case GroupOutcome():
                allocator.evaluations.discard(message.group_id)
                draw = allocator.live.pop(message.group_id, None)
                allocator.trained += message.outcome == "trained"
                if message.reason.endswith("_lost"):
                    assert draw is not None
                    allocator.redo.append(draw)
            case GroupComplete():
                pass

    @precondition(lambda self: not self.allocator_knows)
    @rule()
    def the_allocator_hears_of_the_selector(self) -> None:
        self.allocator_knows = True
        self.allocator.ask()

    @rule(late=st.integers(0, 3))
    def the_allocator_is_killed(self, late: int) -> None:
        self.late += itertools.islice(self.allocator.out, late)
        self.news.append(RoleLost(role="allocator", rank=0, incarnation=self.allocator.incarnation))
        self.allocator = Allocator(self.allocator.incarnation + 1)
        self.allocator_knows = True

    # --- the generators ---------------------------------------------------------------------------------------------

    @rule(
        rank=st.integers(0, _REPLICAS - 1),
        which=st.integers(0, 9),
        tokens=st.integers(1, 9),
        how=st.sampled_from(["progress", "finished", "finished", "finished", "finished", "failed"]),
    )
    def a_candidate_goes_on(self, rank: int, which: int, tokens: int, how: str) -> None:
        generator = self.generators[rank]
        if generator.running:
            candidate = sorted(generator.running)[which % len(generator.running)]
            generator.running[candidate] += tokens
            if how != "progress":
                generator.end(candidate, "finished" if self.is_calm else how)
                return
            ids = np.array([candidate], np.int64)
            counts = np.array([generator.running[candidate]], np.int32)
            generator.out.append(Progress(replica=rank, candidate_ids=ids, num_tokens=counts))

    @rule(rank=st.integers(0, _REPLICAS - 1))
    def a_report_arrives(self, rank: int) -> None:
        if self.generators[rank].out:
            self.hear(self.generators[rank].out.popleft())

    @rule(rank=st.integers(0, _REPLICAS - 1))
    def a_generator_says_hello(self, rank: int) -> None:
        generator = self.generators[rank]
        if not generator.has_hello:
            generator.has_hello = True
            if self.selector.fence:
                self.outbox.append(("cancels", Drop(self.selector.fence)))

    @rule(rank=st.integers(0, _REPLICAS - 1), late=st.integers(0, 3))
    def a_generator_is_killed(self, rank: int, late: int) -> None:
        generator = self.generators[rank]
        self.late += itertools.islice(generator.out, late)
        self.news.append(RoleLost(role="generator", rank=rank, incarnation=generator.incarnation))
        self.generators[rank] = anew = Generator(rank)
        anew.incarnation = generator.incarnation + 1
        anew.has_hello = False

    # --- the learner ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.to_learner)
    @rule(sweep=st.sampled_from([False] * 7 + [True]))
    def a_group_arrives(self, sweep: bool) -> None:
        self.learner.take(self.to_learner.popleft(), sweep=sweep and not self.is_calm)

    @rule()
    def the_learner_makes_a_step(self) -> None:
        self.learner.step(tells=True)

    @precondition(lambda self: self.learner.out)
    @rule()
    def news_of_a_step_arrive(self) -> None:
        self.hear(self.learner.out.popleft())

    @precondition(lambda self: not self.learner_knows)
    @rule()
    def the_learner_hears_of_the_selector(self) -> None:
        self.learner_knows = True
        self.learner.tell()

    @rule(in_a_step=st.booleans(), late=st.integers(0, 2), on_its_way=st.integers(0, 2))
    def the_learner_is_killed(self, in_a_step: bool, late: int, on_its_way: int) -> None:
        if in_a_step:
            self.learner.step(tells=False)
        self.late += [m for m in itertools.islice(self.learner.out, late) if not isinstance(m, LearnerState)]
        self.learner.out.clear()
        for _ in range(min(on_its_way, len(self.to_learner))):
            self.to_learner.popleft()
        self.news.append(RoleLost(role="learner", rank=0, incarnation=0))
        self.learner_knows = True
        self.learner.tell()

    @rule(seed=st.integers(0, 2**32), num=st.integers(1, 400))
    def the_run_goes_on(self, seed: int, num: int) -> None:
        """Many small things happen, in some order, none of them a loss."""
        rng = random.Random(seed)
        for _ in range(num):
            rng.choice(self.deeds(rng, rng.randrange(_REPLICAS)))()
            self.the_books_balance()

    def deeds(self, rng: random.Random, rank: int) -> list[Callable[[], object]]:
        """What can happen next, losses apart."""
        return [
            lambda: self.the_allocator_plans(rank, rng.choice([2, 3]), rng.random() < 0.1, rng.random() < 0.1),
            lambda: self.allocator.out and self.a_plan_arrives(),
            lambda: self.to_allocator and self.the_allocator_hears(rank),
            lambda: self.a_candidate_goes_on(rank, rng.randrange(9), rng.randrange(1, 9), "finished"),
            lambda: self.a_candidate_goes_on(rank, 0, 1, rng.choice(["progress", "progress", "failed"])),
            lambda: self.a_report_arrives(rank),
            lambda: self.the_selector_sends("replies"),
            lambda: self.the_selector_sends("groups"),
            lambda: self.the_selector_sends("cancels"),
            lambda: self.scores and self.a_score_is_in(rng.random() < 0.05),
            lambda: self.to_learner and self.a_group_arrives(rng.random() < 0.05),
            lambda: self.learner.out and self.news_of_a_step_arrive(),
            lambda: rng.random() < 0.5 and self.the_learner_makes_a_step(),
            lambda: self.learner_knows or self.the_learner_hears_of_the_selector(),
            lambda: self.allocator_knows or self.the_allocator_hears_of_the_selector(),
            lambda: self.a_generator_says_hello(rank),
            lambda: rng.random() < 0.3 and self.late and self.something_comes_late(),
            lambda: rng.random() < 0.3 and self.news and self.the_selector_hears_of_a_loss(),
        ]

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_books_balance(self) -> None:
        self.selector.books.ledger.check()
        assert self.selector.protocol_errors == 0, self.selector.last_protocol_error
        selector = self.selector
        trained = selector._version * _PER_STEP + len(selector._trained_since)
        assert selector._planner._assigned == trained + len(selector.released)

    @invariant()
    def no_draw_is_trained_twice(self) -> None:
        trained = [self.draws[group_id] for group_id in self.learner.trained + self.learner.open]
        assert len(set(trained)) == len(trained)

    def audit_ledger(self, *, live: bool = True) -> LedgerAudit:
        audit = LedgerAudit()
        for record in self.disk:
            audit.feed(record)
        audit.finish(live=live)
        assert audit.violations == []
        return audit

    def teardown(self) -> None:
        """Nobody is killed any more: the run comes to its end."""
        self.is_calm = True
        for _ in range(400):
            self.deliver_everything()
            if len(self.learner.steps) == _STEPS and not self.learner.out:
                break
            self.the_allocator_plans(0, _SIZE, False, 0)
            self.the_learner_makes_a_step()
        assert len(self.learner.steps) == _STEPS, "it hangs"
        self.deliver_everything()
        assert not self.selector._groups and not len(self.selector.released)
        assert self.allocator.live == {} and self.allocator.redo == []
        assert self.allocator.trained == _STEPS * _PER_STEP
        self.selector.close()
        self.carry_out()
        self.disk += self.buffer
        audit = self.audit_ledger(live=False)
        assert audit.closed and audit.in_flight == 0 and audit.version == _STEPS
        self.check_draws()

    def check_draws(self) -> None:
        """Every draw of the order came to an end, in order; none was passed over."""
        over: dict[int, str] = {}
        for record in self.disk:
            if isinstance(record, GroupEnded) and not record.starts_again:
                draw = self.draws[record.group_id]
                assert draw not in over
                over[draw] = record.outcome
        assert sorted(over) == list(range(len(over))) and len(over) == self.allocator.next_draw
        assert sum(what == "trained" for what in over.values()) == _STEPS * _PER_STEP
        trained = {self.draws[group_id] for group_id in self.learner.trained}
        assert {draw for draw, what in over.items() if what == "trained"} == trained

    def deliver_everything(self) -> None:
        """Until nothing moves any more but what the allocator and the learner do by themselves."""
        deeds = self.deeds(random.Random(0), 0)
        while self.late:
            self.something_comes_late()
        while self.news:
            self.the_selector_hears_of_a_loss()
        while True:
            before = self.seen()
            for rank in range(_REPLICAS):
                self.a_generator_says_hello(rank)
                self.a_candidate_goes_on(rank, 0, 1, "finished")
                self.a_report_arrives(rank)
            for deed in deeds:
                deed()
            if self.seen() == before:
                return

    def seen(self) -> tuple[object, ...]:
        """Changes when anything moves."""
        sizes = map(len, (self.outbox, self.scores, self.to_learner, self.to_allocator, self.allocator.out))
        replicas = [(len(g.running), len(g.out), g.has_hello) for g in self.generators]
        return *sizes, *replicas, len(self.learner.out), self.learner_knows, self.allocator_knows


Restarts.TestCase.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
TestRestarts = Restarts.TestCase
