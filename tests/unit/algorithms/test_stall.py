"""Stalls: once each, over with the first counter that moves, and any role's progress counts."""

from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.stall import StallWatch


def test_a_stall_is_reported_once_and_another_one_after_progress():
    watch = StallWatch(10.0)
    assert not watch.is_stalled(100.0)  # nothing is expected before the start
    watch.start(100.0)
    watch.heard("a", 1, 103.0)
    watch.heard("b", 5, 104.0)
    for now_s in (106.0, 108.0, 112.0):
        watch.heard("a", 1, now_s)  # alive, and no further
        watch.heard("b", 5, now_s)
    assert watch.due_in_s(112.0) == 2.0
    assert [watch.is_stalled(now_s) for now_s in (113.9, 114.0, 115.0, 200.0)] == [False, True, False, False]
    assert watch.still_s(200.0) == 96.0
    watch.heard("b", 6, 201.0)
    assert [watch.is_stalled(now_s) for now_s in (210.9, 211.0, 212.0)] == [False, True, False]
    assert watch.num_stalls == 2


def test_a_role_that_starts_anew_has_moved():
    watch = StallWatch(10.0)
    watch.start(0.0)
    watch.heard("a", 7, 1.0)
    watch.heard("a", 0, 9.0)
    assert watch.still_s(10.0) == 1.0


def test_another_patience_holds_at_once_and_none_after_the_end():
    watch = StallWatch(100.0)
    watch.start(0.0)
    watch.stall_s = 5.0
    assert watch.due_in_s(2.0) == 3.0
    watch.stopped()
    assert not watch.is_stalled(50.0)
    assert watch.still_s(50.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from("ab"), st.integers(0, 2)), max_size=40))
def test_stalls_are_the_gaps_between_moves(beats):
    """One look at every heartbeat: the stalls are the gaps of 10 s and more in which no counter has changed."""
    watch, now_s, reported = StallWatch(10.0), 0.0, 0
    watch.start(0.0)
    moved_s, counts, expected, told = 0.0, {}, 0, False
    for gap_s, role, value in beats:
        now_s += gap_s
        reported += watch.is_stalled(now_s)
        if now_s - moved_s >= 10.0 and not told:
            expected, told = expected + 1, True
        if counts.get(role) != value:
            counts[role], moved_s, told = value, now_s, False
        watch.heard(role, value, now_s)
    assert reported == watch.num_stalls == expected
