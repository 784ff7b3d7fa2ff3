"""What the selector says it waits for, over the life of groups: candidates, scores, older groups, the learner."""

import numpy as np

from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import GroupPlan, StepDone, Trajectory, VersionSpan, candidate_id


def _plan(group_id, replica=0):
    return GroupPlan(
        group_id=group_id,
        replica=replica,
        prompt_id=f"p{group_id}",
        rule="all",
        group_size=2,
        keep_longest=0,
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(2)),
        dispatch_version=0,
        prompt_tokens=np.zeros(2, np.int32),
    )


def _finished(group_id, index, replica=0):
    return Trajectory(
        candidate_id=candidate_id(group_id, index),
        replica=replica,
        finish_reason="stop",
        response_tokens=np.full(5, index, np.int32),
        behaviour_logprobs=np.zeros(5, np.float32),
        version_spans=(VersionSpan(0, 0),),
    )


def _said(selector):
    return [(one.whom, one.what) for one in selector.pending()]


def test_from_the_plan_to_the_step():
    selector = Selector(planner=StepPlanner(2, 1), run_seed=0, max_response_tokens=16)
    assert _said(selector) == [("allocator-0", "waits for plans of groups")]
    selector.on_plan("allocator-0", _plan(7, replica=1))
    selector.on_plan("allocator-0", _plan(8))
    assert _said(selector) == [
        ("generator-1", "waits for 2 candidates of group 7 on generator-1"),
        ("generator-0", "waits for 2 candidates of group 8 on generator-0"),
    ]
    before = selector.progress
    for index in range(2):
        selector.on_trajectory(_finished(8, index))
    assert _said(selector)[1:] == [("", "waits for the reward function on 2 responses (group 8)")]
    selector.on_reward(candidate_id(8, 0), 1.0)
    assert _said(selector)[1:] == [("", "waits for the reward function on 1 response (group 8)")]
    assert selector.progress > before
    selector.on_reward(candidate_id(8, 1), 0.0)
    for index in range(2):
        selector.on_trajectory(_finished(7, index, replica=1))
        selector.on_reward(candidate_id(7, index), float(index))
    assert _said(selector) == [
        ("allocator-0", "waits for plans of groups"),
        ("learner-0", "waits until 2 groups that it handed on are trained"),
    ]
    effects = selector.take_effects()
    order = tuple(group.group_id for group in effects.groups)
    selector.on_step_done(StepDone(version=1, group_ids=order))
    assert _said(selector) == [("allocator-0", "waits for plans of groups")]


def test_many_groups_are_named_up_to_four_and_counted():
    selector = Selector(planner=StepPlanner(8, 1), run_seed=0, max_response_tokens=16)
    for group_id in range(9):
        selector.on_plan("allocator-0", _plan(group_id))
    said = _said(selector)
    assert len(said) == 5
    assert said[4] == ("generator-0", "waits for candidates of 5 further groups")
