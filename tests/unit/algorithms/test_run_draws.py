"""Where dispatch stands, as the ledger tells it: by hand, and beside the rounds of a played allocator."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.ledger_records import (
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    NumbersReserved,
    StepTrained,
)
from darts_async.algorithms.rounds import DEFERRED, Rounds
from darts_async.algorithms.run_draws import RunDraws
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import (
    GroupOutcome,
    GroupPlan,
    LostDraw,
    OpenGroup,
    RolloutEnded,
    StepDone,
    StepFilled,
    TrainGroup,
    Trajectory,
    VersionSpan,
    candidate_id,
)

_PER_STEP = 2


def _draws() -> RunDraws:
    return RunDraws(Rounds(_PER_STEP), _PER_STEP)


def _planned(group_id: int, draw: int, num: int = 2) -> GroupPlanned:
    return GroupPlanned(
        group_id=group_id,
        draw=draw,
        prompt_id=f"p{draw}",
        rule="shortest",
        group_size=2,
        keep_longest=0,
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(num)),
        dispatch_version=0,
    )


def _released(group_id: int) -> GroupReleased:
    return GroupReleased(group_id=group_id, step=0, kept=(), lengths=())


def _ended(group_id: int, outcome: Any, reason: str = "") -> GroupEnded:
    version = 1 if outcome == "trained" else None
    return GroupEnded(group_id=group_id, outcome=outcome, reason=reason, version=version)


def test_what_was_lost_starts_again_and_what_was_never_planned_too() -> None:
    draws = _draws()
    for record in (
        NumbersReserved(below=90),
        _planned(0, draw=0),
        _planned(1, draw=1, num=3),
        _planned(3, draw=4),  # draws 2 and 3 were allotted to another replica, and not planned yet
        _planned(4, draw=3),
        _released(0),
        _released(3),
        _ended(1, "cancelled", "selector_lost"),
        _ended(4, "rejected", "zero_variance"),
        EvaluationScored(label="before", version=0, reward=0.5, response_length=7.0, num_rollouts=4),
    ):
        draws.feed(record)
    state = draws.state(number=7, first_group=draws.first_group())
    assert (state.number, state.first_group, state.next_draw, state.trained) == (7, 90, 5, 0)
    assert state.redo == (LostDraw(1, 3, "shortest"), LostDraw(2, 0))
    assert state.open == (OpenGroup(0, 0, "p0"), OpenGroup(3, 4, "p4"))
    assert state.evaluated == ((0, 0.5, 7.0),) and draws.num_released == 2
    for record in (
        _planned(90, draw=1, num=3),
        _planned(91, draw=2),
        _ended(0, "trained"),
        _ended(3, "stale", "selector_lost"),
        StepTrained(version=1, group_ids=(0,)),
    ):
        draws.feed(record)
    state = draws.state(number=8, first_group=92)
    assert state.redo == (LostDraw(4, 2, "shortest"),) and state.open == ()
    # The step has another group, whose end was written before it was known that the learner had trained it.
    assert (state.trained, state.version, draws.num_released, draws.first_group()) == (2, 1, 2, 92)


def test_a_draw_that_was_refused_for_its_age_does_not_start_again() -> None:
    draws = _draws()
    for record in (_planned(0, draw=0), _released(0), _ended(0, "stale", "staleness 3")):
        draws.feed(record)
    assert draws.state(number=0, first_group=1).redo == () and draws.num_released == 0


class _Deferring:
    """An allocator that defers, with the real selector; at most one long round's draws live at a time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rounds = Rounds(_PER_STEP, 2, "defer")
        self.told = RunDraws(Rounds(_PER_STEP, 2, "defer"), _PER_STEP)
        self.selector = Selector(planner=StepPlanner(_PER_STEP, 0), run_seed=0, max_response_tokens=9, draws=self.told)
        self.live: dict[int, int] = {}
        self.ready: list[int] = []
        self.next_group = self.next_draw = self.version = 0

    def fresh(self) -> int:
        self.next_draw += 1
        return self.next_draw - 1

    def start(self) -> None:
        rounds = self.rounds
        if not rounds.is_open or len(self.live) >= _PER_STEP + rounds.oversample_groups:
            return
        draw, group_id = rounds.next_draw(self.fresh), self.next_group
        self.next_group += 1
        self.live[group_id] = draw
        self.selector.on_plan(
            "allocator-0",
            GroupPlan(
                group_id=group_id,
                draw=draw,
                prompt_id=f"p{draw}",
                rule="all",
                group_size=2,
                keep_longest=0,
                candidate_ids=(candidate_id(group_id, 0), candidate_id(group_id, 1)),
                dispatch_version=self.version,
                unfinished=rounds.unfinished,
                prompt_tokens=np.zeros(1, np.int32),
            ),
        )
        self.carry_out()

    def finish(self) -> None:
        unfinished = sorted(self.live.keys() - set(self.ready))
        if not unfinished:
            return
        group_id = self.rng.choice(unfinished)
        for index in range(2):
            candidate = candidate_id(group_id, index)
            self.selector.on_trajectory(
                Trajectory(
                    candidate_id=candidate,
                    replica=0,
                    finish_reason="stop",
                    response_tokens=np.ones(3, np.int32),
                    behaviour_logprobs=np.zeros(3, np.float32),
                    version_spans=(VersionSpan(self.version, 0),),
                )
            )
            self.selector.on_reward(candidate, float(index))
        self.carry_out()

    def step(self) -> None:
        if len(self.ready) == _PER_STEP:
            self.version += 1
            groups, self.ready = tuple(self.ready), []
            self.selector.on_step_done(StepDone(version=self.version, group_ids=groups))
            self.carry_out()
            self.rounds.published(self.version)

    def carry_out(self) -> None:
        effects = self.selector.take_effects()
        if effects is None:
            return
        for _, reply in effects.replies:
            if isinstance(reply, GroupOutcome):
                draw = self.live.pop(reply.group_id, None)
                if reply.reason == DEFERRED:
                    assert draw is not None
                    self.rounds.deferred(draw)
            elif isinstance(reply, StepFilled):
                self.rounds.filled(reply.step)
        for message in effects.groups:
            assert isinstance(message, TrainGroup)
            self.ready.append(message.group_id)
        for cancel in effects.cancels:
            for candidate in cancel.candidate_ids:  # type: ignore[union-attr]
                self.selector.on_ended(
                    RolloutEnded(candidate_id=candidate, replica=0, reason="cancelled", num_tokens=1)
                )
        if effects.cancels:
            self.carry_out()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_rounds_stand_in_the_ledger_as_the_allocator_has_them(seed: int) -> None:
    run = _Deferring(seed)
    num_long = 0
    for _ in range(150):
        run.rng.choice([run.start, run.start, run.finish, run.step])()
        state = run.told.state(number=0, first_group=run.next_group)
        if not run.ready:  # a step that is filled is over for both once the next version is known
            assert state.rounds == run.rounds.to_state()
        assert state.next_draw == run.next_draw
        num_long = max(num_long, run.rounds.num_long)
    assert run.version < 8 or num_long > 0
