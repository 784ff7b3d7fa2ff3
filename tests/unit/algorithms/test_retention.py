"""Which checkpoints stay: by hand, and against a statement of the rules over random runs."""

import math

from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.retention import Retention, Scored


def test_periodic_ones_make_room_for_newer_ones():
    retention = Retention(keep=2)
    deleted = []
    for version in (2, 4, 6, 8):
        retention.written(version, periodic=True)
        deleted.append(retention.to_delete())
    assert deleted == [[], [], [2], [4]]


def test_the_best_stays_and_the_one_it_beats_goes():
    retention = Retention(keep=1)
    retention.written(5, awaits_score=True)
    assert retention.to_delete() == []  # its score may make it the best
    retention.scored(Scored(5, 0.5, 100))
    retention.written(10, awaits_score=True)
    assert retention.to_delete() == []
    retention.scored(Scored(10, 0.4, 50))
    assert (retention.best.version, retention.to_delete()) == (5, [10])
    retention.written(15, awaits_score=True)
    retention.scored(Scored(15, 0.6, 300))
    assert (retention.best.version, retention.to_delete()) == (15, [5])


def test_ties_go_to_the_shorter_then_to_the_older_one():
    retention = Retention(keep=1)
    for version, length in ((1, 100), (2, 90), (3, 90), (4, 95)):
        retention.written(version, awaits_score=True)
        retention.scored(Scored(version, 0.5, length))
    assert retention.best == Scored(2, 0.5, 90)
    assert retention.to_delete() == [1, 3, 4]


def test_periodic_best_and_last_are_reasons_of_their_own():
    retention = Retention(keep=1)
    retention.written(4, periodic=True, awaits_score=True)
    retention.scored(Scored(4, 0.9, 10))
    retention.written(8, periodic=True, awaits_score=True)
    retention.scored(Scored(8, 0.1, 10))
    assert retention.to_delete() == []  # 4: the best, 8: the periodic one
    retention.written(12, periodic=True, awaits_score=True)
    retention.scored(Scored(12, 0.2, 10))
    assert retention.to_delete() == [8]
    retention.written(13, last=True)
    assert retention.to_delete() == []
    retention.written(12, last=True)  # an interrupted run ends with the one that is there
    assert retention.to_delete() == [13]


def test_a_score_may_be_here_before_its_checkpoint_is_complete():
    retention = Retention(keep=1)
    retention.scored(Scored(3, 0.5, 10))
    assert retention.best is None
    retention.written(3, awaits_score=True)
    assert (retention.best.version, retention.to_delete()) == (3, [])


def test_no_number_is_never_the_best_and_what_waits_at_the_end_goes():
    retention = Retention(keep=1)
    retention.written(2, awaits_score=True)
    retention.scored(Scored(2, math.nan, math.nan))
    assert (retention.best, retention.to_delete()) == (None, [2])
    retention.written(4, awaits_score=True)
    retention.ended()
    assert retention.to_delete() == [4]


@given(
    keep=st.integers(1, 3),
    periodic_every=st.integers(0, 4),
    eval_every=st.integers(1, 4),
    rewards=st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan]), min_size=1, max_size=15),
    lags=st.lists(st.integers(0, 3), min_size=15, max_size=15),
)
def test_what_is_left_is_what_the_rules_say(keep, periodic_every, eval_every, rewards, lags):
    """Scores come in order, each up to three versions late; at the end the best, `keep` periodic ones and the last."""
    retention = Retention(keep)
    on_disk, owed = set(), []
    for version, _ in enumerate(rewards, start=1):
        periodic = periodic_every > 0 and version % periodic_every == 0
        evaluated = version % eval_every == 0 or version == len(rewards)
        if periodic or evaluated:
            retention.written(version, periodic=periodic, awaits_score=evaluated, last=version == len(rewards))
            on_disk.add(version)
        if evaluated:
            owed.append((version, version + lags[version - 1]))
        while owed and (owed[0][1] <= version or version == len(rewards)):
            scored = owed.pop(0)[0]
            retention.scored(Scored(scored, rewards[scored - 1], 10.0 * (scored % 3)))
        deleted = set(retention.to_delete())
        assert deleted <= on_disk
        on_disk -= deleted
        assert {v for v, _ in owed} <= on_disk
    retention.ended()
    on_disk -= set(retention.to_delete())
    evals = [v for v in range(1, len(rewards) + 1) if v % eval_every == 0 or v == len(rewards)]
    ranked = sorted((-rewards[v - 1], v % 3, v) for v in evals if not math.isnan(rewards[v - 1]))
    every = [v for v in range(1, len(rewards) + 1) if periodic_every and v % periodic_every == 0]
    expected = {len(rewards), *every[-keep:]} | ({ranked[0][2]} if ranked else set())
    assert on_disk == expected
