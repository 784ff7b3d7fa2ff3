"""Admission and step planning: hand-computed cases, then the property that no group is ever too old."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.rounds import Rounds
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


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    per_step=st.integers(1, 4),
    eta=st.integers(0, 3),
    steps=st.integers(1, 6),
    unfinished=st.sampled_from(["keep", "keep", "defer", "resume"]),
    oversample=st.integers(0, 5),
)
def test_no_schedule_overtakes_a_slow_group_or_deadlocks(
    data, per_step: int, eta: int, steps: int, unfinished: str, oversample: int
):
    """Admission, rounds, planner and door under any order of completions, drops, faults, sweeps and late news."""
    if unfinished == "defer":
        eta = 0
    elif unfinished == "resume":
        eta, oversample = max(eta, 1), min(max(oversample, 1), max(eta, 1) * per_step)
    drive = _Drive(per_step, eta, steps, unfinished, oversample)
    for _ in range(10_000):
        if drive.version == steps:
            break
        moves = drive.moves()
        assert moves, "deadlock"
        data.draw(st.sampled_from(moves))(data)
    assert drive.version == steps
    while drive.to_allocator:
        drive.reply_arrives(data)
    assert drive.max_staleness <= eta
    if not (unfinished == "keep" and oversample):
        assert drive.num_swept == drive.num_faults  # the door catches faults and nothing else
    started = [prompt for prompt in drive.prompt_of.values() if prompt in drive.deferred_prompts]
    if unfinished == "defer":  # every deferral has a later start, or waits for one
        assert len(started) - len(set(started)) == drive.num_deferred - drive.rounds.num_deferred
    else:
        assert not drive.num_deferred


class _Drive:
    """What the actors do with the four state machines; every link may be slow, none reorders."""

    def __init__(self, per_step: int, eta: int, steps: int, unfinished, oversample: int) -> None:
        self.eta, self.per_step = eta, per_step
        ahead = 0 if unfinished == "resume" else eta
        bound = (eta + 1) * per_step + oversample
        self.admission = Admission(
            groups_per_step=per_step, eta=ahead, steps=steps, in_flight_groups=bound, oversample_groups=oversample
        )
        self.rounds = Rounds(per_step, oversample, unfinished)
        self.planner = StepPlanner(per_step, eta, steps)
        self.dispatch_version: dict[int, int] = {}
        self.prompt_of: dict[int, int] = {}
        self.how: dict[int, str] = {}
        self.num_fresh = 0
        self.version = 0  # the learner's
        self.plans: deque[int] = deque()
        self.decoding: list[int] = []
        self.parked: dict[int, int] = {}
        self.to_learner: deque[int] = deque()
        self.to_allocator: deque[tuple[str, int]] = deque()
        self.versions: deque[int] = deque()
        self.in_step: list[int] = []
        self.num_drops = self.num_faults = self.num_swept = self.num_deferred = self.max_staleness = 0
        self.deferred_prompts: set[int] = set()

    def moves(self) -> list:
        self.admission.oversample_groups = self.rounds.oversample_groups
        moves = [self.plan_arrives] * bool(self.plans) + [self.learn] * bool(self.to_learner)
        moves += [self.reply_arrives] * bool(self.to_allocator) + [self.version_arrives] * bool(self.versions)
        if self.rounds.is_open and self.admission.may_dispatch():
            moves.append(self.dispatch)
        if self.running:
            moves += [self.complete] + [self.drop] * (self.num_drops < 20)
        return moves

    @property
    def running(self) -> list[int]:
        return [g for g in self.decoding if self.parked.get(g, 0) <= self.version]

    def dispatch(self, data) -> None:
        group = len(self.dispatch_version)
        self.dispatch_version[group] = self.admission.version
        self.how[group] = self.rounds.unfinished
        self.prompt_of[group] = self.rounds.next_draw(self.fresh)
        if self.rounds.is_long:
            assert self.rounds.unfinished == "keep"
        self.admission.dispatched(group)
        self.plans.append(group)

    def fresh(self) -> int:
        self.num_fresh += 1
        return self.num_fresh

    def plan_arrives(self, data) -> None:
        group = self.plans.popleft()
        self.planner.dispatched(group, self.dispatch_version[group])
        self.decoding.append(group)
        if self.how[group] == "defer" and self.planner.is_overdue(self.dispatch_version[group]):
            self.defer(group)

    def pick(self, data) -> int:
        group = data.draw(st.sampled_from(self.running))
        self.decoding.remove(group)
        return group

    def complete(self, data) -> None:
        group = self.pick(data)
        self.to_allocator.append(("complete", group))
        self.release(self.planner.complete(group))

    def drop(self, data) -> None:
        """Rejected for want of candidates, or for zero variance: another group takes its place."""
        self.num_drops += 1
        group = self.pick(data)
        self.to_allocator.append(("dropped", group))
        self.release(self.planner.dropped(group))

    def defer(self, group: int) -> None:
        self.decoding.remove(group)
        self.num_deferred += 1
        self.to_allocator.append(("deferred", group))
        self.release(self.planner.dropped(group))

    def release(self, released: list[tuple[int, int]]) -> None:
        self.to_learner += [group for group, _ in released]
        if not released or self.planner.filling == released[0][1]:
            return
        for group in list(self.decoding):
            if self.how[group] == "defer":
                self.defer(group)
            elif self.how[group] == "resume" and not self.planner.is_full:
                self.parked[group] = self.planner.filling
        if self.how[released[-1][0]] == "defer":
            self.to_allocator.append(("filled", self.planner.filling - 1))

    def learn(self, data) -> None:
        group = self.to_learner.popleft()
        stale = staleness(self.version, self.dispatch_version[group])
        assert stale >= 0
        fault = self.num_faults < 3 and data.draw(st.booleans()) and data.draw(st.booleans())
        if fault or stale > self.eta:
            self.num_faults += fault
            self.num_swept += 1
            self.to_allocator.append(("stale", group))
            self.release(self.planner.swept(group))
            return
        self.max_staleness = max(self.max_staleness, stale)
        self.in_step.append(group)
        if len(self.in_step) == self.per_step:
            self.to_allocator += [("trained", trained) for trained in self.in_step]
            self.in_step.clear()
            self.version += 1
            self.versions.append(self.version)

    def version_arrives(self, data) -> None:
        version = self.versions.popleft()
        self.admission.published(version)
        self.rounds.published(version)

    def reply_arrives(self, data) -> None:
        what, number = self.to_allocator.popleft()
        if what == "complete":
            self.admission.completed(number)
            return
        if what == "filled":
            self.rounds.filled(number)
            return
        if what == "deferred":
            self.deferred_prompts.add(self.prompt_of[number])
            self.rounds.deferred(self.prompt_of[number])
        elif what == "stale":
            self.rounds.swept()
        self.admission.ended(number, trained=what == "trained")
