"""Admission and step planning: hand-computed cases, then the property that no group is ever too old."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.staleness import Admission, StepPlanner, eta_of, staleness
from darts_async.config import load_config


def test_staleness_counts_versions_before_the_update():
    assert staleness(5, 5) == 0
    assert staleness(5, 3) == 2


@pytest.mark.parametrize(("mode", "eta"), [("sync", 0), ("stream", 0), ("one_step_off", 1), ("async", 1)])
def test_modes_imply_their_bound(tmp_path, mode: str, eta: int):
    path = tmp_path / "mode.toml"
    path.write_text(f'[pipeline]\nmode = "{mode}"\n')
    assert eta_of(load_config(str(path))) == eta


def test_admission_by_hand():
    admission = Admission(groups_per_step=2, eta=1, steps=3, in_flight_groups=10)
    started = []
    while admission.may_dispatch():
        started.append(len(started))
        admission.dispatched(started[-1])
    assert len(started) == 4  # (eta + 1 + 0) * 2
    admission.completed(0)
    admission.ended(0, trained=True)
    assert not admission.may_dispatch()  # trained and live together are what is bounded
    admission.ended(1, trained=False)
    assert admission.may_dispatch()  # a dropped group makes room
    admission.dispatched(4)
    admission.published(1)
    assert admission.may_dispatch()
    admission.dispatched(5)
    admission.published(2)
    admission.dispatched(6)
    assert admission.trained + admission.live == 6
    assert not admission.may_dispatch()  # 3 steps x 2 groups is all the run needs


def test_in_flight_is_an_independent_bound():
    admission = Admission(groups_per_step=8, eta=1, steps=10, in_flight_groups=2)
    admission.dispatched(0)
    admission.dispatched(1)
    assert not admission.may_dispatch()
    admission.completed(0)
    assert admission.may_dispatch()
    assert (admission.live, admission.in_flight) == (2, 1)


def test_planner_by_hand_keeps_room_for_the_slow():
    planner = StepPlanner(groups_per_step=2, max_staleness=1)
    for group in (0, 1, 2, 3):
        planner.dispatched(group, version=0)  # all must be trained by step 1
    assert planner.complete(2) == [(2, 0)]
    assert planner.complete(3) == [(3, 0)]
    for group in (4, 5):
        planner.dispatched(group, version=1)  # by step 2
    assert planner.complete(4) == []  # both slots of step 1 belong to groups 0 and 1
    assert planner.complete(1) == [(1, 1)]
    assert planner.complete(5) == []
    assert planner.complete(0) == [(0, 1), (4, 2), (5, 2)]


def test_planner_drop_lets_younger_ones_through():
    planner = StepPlanner(groups_per_step=1, max_staleness=1)
    planner.dispatched(0, version=0)
    planner.dispatched(1, version=0)
    assert planner.complete(1) == [(1, 0)]
    planner.dispatched(2, version=1)
    assert planner.complete(2) == []
    assert planner.dropped(0) == [(2, 1)]


def test_swept_group_frees_its_slot():
    planner = StepPlanner(groups_per_step=2, max_staleness=0)
    planner.dispatched(0, version=0)
    planner.dispatched(1, version=0)
    assert planner.complete(0) == [(0, 0)]
    assert planner.swept(0) == []
    planner.dispatched(2, version=0)
    assert planner.complete(1) == [(1, 0)]
    assert planner.complete(2) == [(2, 0)]


def test_planner_never_fills_steps_behind_the_end():
    planner = StepPlanner(groups_per_step=1, max_staleness=1, steps=1)
    planner.dispatched(0, version=0)
    planner.dispatched(1, version=0)
    assert planner.complete(0) == [(0, 0)]
    assert planner.complete(1) == []


@settings(max_examples=300, deadline=None)
@given(data=st.data(), per_step=st.integers(1, 4), eta=st.integers(0, 4), steps=st.integers(1, 8))
def test_no_schedule_overtakes_a_slow_group_or_deadlocks(data, per_step: int, eta: int, steps: int):
    """Drive admission and planner with arbitrary completion orders, drops and delays of the learner."""
    admission = Admission(groups_per_step=per_step, eta=eta, steps=steps, in_flight_groups=per_step * (eta + 1))
    planner = StepPlanner(per_step, eta, steps)
    dispatch_version: dict[int, int] = {}
    decoding: list[int] = []
    queue: list[int] = []
    in_step: list[int] = []
    version = 0
    drops = 0
    for _ in range(10_000):
        if version == steps:
            break
        moves = []
        if admission.may_dispatch():
            moves.append("dispatch")
        if decoding:
            moves += ["complete", "drop"] if drops < 20 else ["complete"]
        if queue:
            moves.append("learn")
        assert moves, "deadlock"
        move = data.draw(st.sampled_from(moves))
        released: list[tuple[int, int]] = []
        if move == "dispatch":
            group = len(dispatch_version)
            dispatch_version[group] = version
            admission.dispatched(group)
            planner.dispatched(group, version)
            decoding.append(group)
        elif move == "complete":
            group = decoding.pop(data.draw(st.integers(0, len(decoding) - 1)))
            admission.completed(group)
            released = planner.complete(group)
        elif move == "drop":
            drops += 1
            group = decoding.pop(data.draw(st.integers(0, len(decoding) - 1)))
            admission.ended(group, trained=False)
            released = planner.dropped(group)
        else:
            group = queue.pop(0)
            assert 0 <= staleness(version, dispatch_version[group]) <= eta
            in_step.append(group)
            if len(in_step) == per_step:
                for trained in in_step:
                    admission.ended(trained, trained=True)
                in_step.clear()
                version += 1
                admission.published(version)
        queue += [group for group, _ in released]
    assert version == steps
