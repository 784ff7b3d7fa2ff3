"""Groups between selector and learner under any sequence of losses: each is trained exactly once, in order."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import LedgerRecord, RunOpened
from darts_async.algorithms.released import Released
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.errors import ProtocolError
from darts_async.messages import (
    FromLearner,
    GroupOutcome,
    GroupPlan,
    GroupSwept,
    LearnerState,
    StateTaken,
    StepDone,
    ToLearner,
    TrainedStep,
    TrainGroup,
    Trajectory,
    VersionSpan,
    candidate_id,
)

PER_STEP = 2


def _finished(candidate: int) -> Trajectory:
    return Trajectory(
        candidate_id=candidate,
        replica=0,
        finish_reason="stop",
        response_tokens=np.full(3, candidate, np.int32),
        behaviour_logprobs=np.zeros(3, np.float32),
        version_spans=(VersionSpan(0, 0),),
    )


class _Learner:
    """The learner's side of the contract, with a disk that outlives it."""

    def __init__(self) -> None:
        self.steps: list[TrainedStep] = []
        """In the journal."""
        self.open: list[int] = []
        """In the spool."""
        self.trained: list[int] = []
        self.refused: set[int] = set()
        self.epoch = 0
        self.answered = 0
        self.out: deque[FromLearner] = deque()

    def restart(self) -> None:
        self.epoch += 1
        self.out.append(
            LearnerState(epoch=self.epoch, version=len(self.steps), steps=tuple(self.steps), received=tuple(self.open))
        )

    def take(self, message: ToLearner, *, sweep: bool = False) -> None:
        if isinstance(message, StateTaken):
            if message.epoch == self.epoch:
                assert not message.over
                self.answered = message.epoch
            return
        assert isinstance(message, TrainGroup)
        if message.epoch != self.epoch:
            return
        assert self.answered == self.epoch  # the answer comes first
        group_id = message.group_id
        assert group_id not in self.open and group_id not in self.trained
        if sweep or group_id in self.refused:
            self.refused.add(group_id)
            self.out.append(GroupSwept(group_id=group_id, staleness=9))
            return
        self.open.append(group_id)

    def work(self, *, tells: bool = True) -> None:
        """Make a step of full groups; a learner that is killed right then has told nobody."""
        if self.answered == self.epoch and len(self.open) >= PER_STEP:
            done, self.open = self.open[:PER_STEP], self.open[PER_STEP:]
            self.trained += done
            self.steps.append(TrainedStep(len(self.steps) + 1, tuple(done)))
            if tells:
                self.out.append(StepDone(version=len(self.steps), group_ids=tuple(done)))


class _Run:
    """A selector, the learner, and links that lose what is on its way when the learner dies."""

    def __init__(self, groups: int) -> None:
        steps = groups // PER_STEP
        self.selector = Selector(planner=StepPlanner(PER_STEP, 64, steps), run_seed=0, max_response_tokens=8)
        self.learner = _Learner()
        self.to_learner: deque[ToLearner] = deque()
        self.records: list[LedgerRecord] = [RunOpened(run="r", seed=0, rule="shortest")]
        self.outcomes: dict[int, str] = {}
        self.released: list[int] = []

    def plan(self, group_id: int) -> None:
        ids = tuple(candidate_id(group_id, index) for index in range(2))
        self.selector.on_plan(
            "allocator-0",
            GroupPlan(
                group_id=group_id,
                draw=group_id,
                prompt_id="p",
                rule="shortest",
                group_size=2,
                keep_longest=0,
                candidate_ids=ids,
                dispatch_version=0,
                prompt_tokens=np.zeros(2, np.int32),
            ),
        )
        for candidate in ids:
            self.selector.on_trajectory(_finished(candidate))
            self.selector.on_reward(candidate, 1.0)
        self.collect()

    def collect(self) -> None:
        effects = self.selector.take_effects()
        if effects is not None:
            self.records += effects.records
            self.to_learner += effects.groups
            for _, reply in effects.replies:
                if isinstance(reply, GroupOutcome):
                    assert reply.group_id not in self.outcomes
                    self.outcomes[reply.group_id] = reply.outcome

    def hear(self, message: FromLearner) -> None:
        match message:
            case StepDone():
                self.selector.on_step_done(message)
            case GroupSwept():
                self.selector.on_swept(message)
            case LearnerState():
                self.selector.on_learner_state(message)
        self.collect()


class _Chaos:
    """Plays a run in which the learner dies again and again, then one in which it does not."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.run = _Run(8)
        self.planned = 0
        self.late: deque[FromLearner] = deque()
        """Sent by learners that are dead, in order."""

    @property
    def wanted(self) -> int:
        return 8 + len(self.run.learner.refused)

    def plan(self) -> None:
        if self.planned < self.wanted:
            self.run.plan(self.planned)
            self.planned += 1

    def deliver(self, *, sweeps: bool = True) -> None:
        if self.run.to_learner:
            sweep = sweeps and self.rng.random() < 0.1 and not self.run.learner.refused
            self.run.learner.take(self.run.to_learner.popleft(), sweep=sweep)

    def hear(self) -> None:
        if self.run.learner.out:
            self.run.hear(self.run.learner.out.popleft())

    def hear_late(self) -> None:
        if self.late:
            self.run.hear(self.late.popleft())

    def work(self) -> None:
        self.run.learner.work()

    def kill(self) -> None:
        """Of what the learner had sent some is lost, some comes late, behind what the new one says; of what was on its
        way to it some waits for the new one."""
        learner, rng = self.run.learner, self.rng
        if rng.random() < 0.5:
            learner.work(tells=False)
        said, learner.out = list(learner.out), deque()
        self.late += [m for m in said if rng.random() < 0.5 and not isinstance(m, LearnerState)]
        for _ in range(rng.randrange(len(self.run.to_learner) + 1)):
            self.run.to_learner.popleft()
        learner.restart()

    def calm(self) -> None:
        for _ in range(40):
            while self.planned < self.wanted:
                self.plan()
            while self.run.learner.out:
                self.hear()
            while self.run.to_learner:
                self.deliver(sweeps=False)
            self.work()
        while self.late:
            self.hear_late()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_after_any_losses_each_released_group_is_trained_exactly_once(seed: int) -> None:
    chaos = _Chaos(seed)
    deeds = [chaos.plan, chaos.deliver, chaos.work, chaos.hear, chaos.hear_late, chaos.kill]
    for deed in chaos.rng.choices(deeds, weights=[3, 6, 4, 6, 2, 2], k=400):
        deed()
    chaos.calm()
    run = chaos.run
    assert len(run.learner.trained) == len(set(run.learner.trained)) == 8
    assert sorted(run.learner.trained) == sorted(g for g, what in run.outcomes.items() if what == "trained")
    assert {g for g, what in run.outcomes.items() if what == "stale"} == run.learner.refused
    assert len(run.selector.released) == 0 and run.selector.protocol_errors == 0
    run.selector.close()
    run.collect()
    audit = LedgerAudit()
    for record in run.records:
        audit.feed(record)
    audit.finish(live=False)
    assert audit.violations == [] and audit.version == 4 and audit.rollouts["trained"] == 16


def _two_released() -> tuple[_Run, list[ToLearner]]:
    run = _Run(4)
    run.plan(0)
    run.plan(1)
    return run, list(run.to_learner)


def test_what_was_on_its_way_is_sent_again_in_order_and_the_old_is_void() -> None:
    run, before = _two_released()
    run.to_learner.clear()
    run.hear(LearnerState(epoch=7, version=0, received=(1,)))
    answer, again = run.to_learner
    assert isinstance(answer, StateTaken) and (answer.epoch, answer.over) == (7, ())
    assert isinstance(again, TrainGroup) and isinstance(before[0], TrainGroup)
    assert (again.group_id, again.epoch, before[0].epoch) == (0, 7, 0)
    assert again.response_tokens is before[0].response_tokens
    run.to_learner.clear()
    run.plan(2)
    (later,) = run.to_learner
    assert isinstance(later, TrainGroup) and later.epoch == 7
    run.hear(LearnerState(epoch=7, version=0))  # a repeat
    run.hear(LearnerState(epoch=3, version=0))  # older
    assert list(run.to_learner) == [later]


def test_groups_that_ended_before_are_not_to_be_trained() -> None:
    run, _ = _two_released()
    run.to_learner.clear()
    run.hear(LearnerState(epoch=1, version=0, received=(0, 5)))
    answer = run.to_learner[0]
    assert isinstance(answer, StateTaken) and answer.over == (5,)


def test_a_learner_that_went_back_ends_the_run() -> None:
    run, _ = _two_released()
    run.hear(StepDone(version=1, group_ids=(0, 1)))
    with pytest.raises(ProtocolError, match="the learner has version 0, the selector's books end at version 1"):
        run.hear(LearnerState(epoch=1, version=0))


def test_steps_that_nobody_names_end_the_run() -> None:
    run, _ = _two_released()
    with pytest.raises(ProtocolError, match="the learner has version 2"):
        run.hear(LearnerState(epoch=1, version=2, steps=(TrainedStep(2, (2, 3)),)))


def test_the_end_of_training_is_heard_of_in_the_state() -> None:
    run, _ = _two_released()
    run.to_learner.clear()
    run.hear(LearnerState(epoch=1, version=1, steps=(TrainedStep(1, (0, 1)),), last=True))
    assert run.outcomes == {0: "trained", 1: "trained"}
    (answer,) = run.to_learner
    assert isinstance(answer, StateTaken)
    run.plan(2)
    assert len(run.to_learner) == 1  # nothing is released any more


def test_a_selector_that_was_started_anew_sends_nothing_before_it_knows() -> None:
    _, before = _two_released()
    first, second = before
    assert isinstance(first, TrainGroup) and isinstance(second, TrainGroup)
    released = Released(waiting=True)
    released.restore([4, 5, 6])
    assert released.give(first) == [] and 0 in released
    again, lost = released.take_state(2, (5,))
    assert [group.group_id for group in again] == [0] and lost == [4, 6]
    assert [group.epoch for group in released.give(second)] == [2]
    released.over(5)
    released.over(99)
    assert len(released) == 4
