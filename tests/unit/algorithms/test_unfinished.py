"""What the selector does with the groups that are unfinished when a step is filled: by hand."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from darts_async.algorithms.effects import Cancel, Effects, Park
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import (
    LEDGER_STATES,
    GroupOutcome,
    GroupPlan,
    ObservedLength,
    PlanAccepted,
    Progress,
    RolloutEnded,
    StepDone,
    StepFilled,
    Trajectory,
    VersionSpan,
    candidate_id,
)

Unfinished = Literal["keep", "defer", "resume"]


class Desk:
    """A selector with two groups of two candidates under rule `all`, one group a step."""

    def __init__(self, unfinished: Unfinished, eta: int, steps: int = 9) -> None:
        self.selector = Selector(planner=StepPlanner(1, eta, steps), run_seed=0, max_response_tokens=64)
        self.unfinished = unfinished
        for group in (0, 1):
            self.plan(group)
        self.effects()

    def plan(self, group: int, version: int = 0) -> None:
        plan = GroupPlan(
            group_id=group,
            prompt_id=f"p{group}",
            rule="all",
            group_size=2,
            keep_longest=0,
            candidate_ids=(candidate_id(group, 0), candidate_id(group, 1)),
            dispatch_version=version,
            unfinished=self.unfinished,
            prompt_tokens=np.zeros(2, np.int32),
        )
        self.selector.on_plan("a", plan)

    def finish(self, group: int, index: int, tokens: int, reward: float = 1.0) -> None:
        message = Trajectory(
            candidate_id=candidate_id(group, index),
            replica=3,
            finish_reason="stop",
            response_tokens=np.ones(tokens, np.int32),
            behaviour_logprobs=np.zeros(tokens, np.float32),
            version_spans=(VersionSpan(0, 0),),
        )
        self.selector.on_trajectory(message)
        self.selector.on_reward(candidate_id(group, index), reward)

    def effects(self) -> Effects:
        return self.selector.take_effects() or Effects()

    def check(self, **expected: int) -> None:
        summary = self.selector.close()
        assert {s: summary[f"tokens/{s}"] for s in LEDGER_STATES} == {s: expected.get(s, 0) for s in LEDGER_STATES}


def test_deferral_ends_the_group_tells_the_allocator_and_balances():
    desk = Desk("defer", eta=0)
    desk.finish(1, 0, 5)
    ids = np.array([candidate_id(1, 1)], np.int64)
    desk.selector.on_progress(Progress(replica=3, candidate_ids=ids, num_tokens=np.array([40], np.int32)))
    desk.effects()
    desk.finish(0, 0, 4)
    desk.finish(0, 1, 6)
    effects = desk.effects()
    assert [group.group_id for group in effects.groups] == [0]
    assert effects.cancels == [Cancel(3, (candidate_id(1, 1),))]
    *_, outcome, filled = [reply for _, reply in effects.replies]
    assert isinstance(outcome, GroupOutcome) and isinstance(filled, StepFilled)
    assert (outcome.group_id, outcome.outcome, outcome.reason) == (1, "cancelled", "deferred")
    assert outcome.lengths == (ObservedLength(5, censored=False), ObservedLength(40, censored=True))
    assert filled.step == 0
    ended = RolloutEnded(candidate_id=candidate_id(1, 1), replica=3, reason="cancelled", num_tokens=43)
    desk.selector.on_ended(ended)
    desk.selector.on_step_done(StepDone(version=1, group_ids=(0,)))
    desk.check(trained=10, rejected=5, cancelled_tail=43)


def test_a_plan_that_crosses_the_report_of_a_full_step_is_deferred_at_once():
    desk = Desk("defer", eta=0)
    desk.finish(0, 0, 4)
    desk.finish(0, 1, 6)
    desk.effects()
    desk.plan(2)  # still of version 0
    replies = [reply for _, reply in desk.effects().replies]
    assert isinstance(replies[0], PlanAccepted)
    assert isinstance(replies[-1], GroupOutcome) and replies[-1].reason == "deferred"
    desk.plan(3, version=1)
    assert [type(reply) for _, reply in desk.effects().replies] == [PlanAccepted]


def test_a_deferred_group_that_only_waits_for_a_reward_ends_too():
    desk = Desk("defer", eta=0)
    desk.finish(1, 0, 5)
    desk.finish(0, 0, 4)
    message = Trajectory(
        candidate_id=candidate_id(1, 1),
        replica=3,
        finish_reason="stop",
        response_tokens=np.ones(7, np.int32),
        behaviour_logprobs=np.zeros(7, np.float32),
        version_spans=(VersionSpan(0, 0),),
    )
    desk.selector.on_trajectory(message)
    desk.finish(0, 1, 6)
    effects = desk.effects()
    assert not effects.cancels
    desk.selector.on_reward(candidate_id(1, 1), 1.0)  # too late
    assert not desk.effects().groups
    desk.selector.on_step_done(StepDone(version=1, group_ids=(0,)))
    desk.check(trained=10, rejected=12)


def test_resume_parks_what_runs_until_the_next_version_and_keeps_the_group():
    desk = Desk("resume", eta=1)
    desk.finish(1, 0, 5)
    desk.finish(0, 0, 4)
    desk.finish(0, 1, 6)
    effects = desk.effects()
    assert effects.cancels == [Park(3, (candidate_id(1, 1),), resume_version=1)]
    assert not any(isinstance(reply, GroupOutcome | StepFilled) for _, reply in effects.replies)
    desk.selector.on_step_done(StepDone(version=1, group_ids=(0,)))
    desk.finish(1, 1, 30)
    (group,) = desk.effects().groups
    assert (group.group_id, group.step) == (1, 1)
    desk.selector.on_step_done(StepDone(version=2, group_ids=(1,)))
    desk.check(trained=45)


@pytest.mark.parametrize("unfinished", ["keep", "resume"])
def test_nothing_is_parked_when_no_step_is_left(unfinished: Unfinished):
    desk = Desk(unfinished, eta=1, steps=1)
    desk.finish(0, 0, 4)
    desk.finish(0, 1, 6)
    effects = desk.effects()
    assert [group.group_id for group in effects.groups] == [0] and not effects.cancels
