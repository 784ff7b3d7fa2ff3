"""Rounds by hand: who starts when, and that a long round is for those who were deferred alone."""

from __future__ import annotations

from itertools import count

from darts_async.algorithms.rounds import Rounds


def test_a_long_round_comes_when_the_deferred_fill_a_step():
    rounds, fresh = Rounds(2, 1, "defer"), count(100).__next__
    assert [rounds.next_draw(fresh) for _ in range(3)] == [100, 101, 102]
    assert (rounds.is_open, rounds.is_long, rounds.oversample_groups, rounds.unfinished) == (True, False, 1, "defer")
    rounds.deferred(101)
    rounds.filled(0)
    assert not rounds.is_open  # version 0 has all it needs, version 1 is not there yet
    rounds.published(1)
    assert rounds.is_open and not rounds.is_long  # one prompt does not fill a step of two
    assert [rounds.next_draw(fresh) for _ in range(3)] == [103, 104, 105]
    rounds.deferred(105)
    rounds.deferred(103)
    rounds.filled(1)
    rounds.published(2)
    assert (rounds.is_long, rounds.oversample_groups, rounds.unfinished, rounds.num_deferred) == (True, 0, "keep", 3)
    assert [rounds.next_draw(fresh) for _ in range(2)] == [101, 105]
    assert rounds.next_draw(fresh) == 103  # a replacement, for a group that was rejected: the next in the queue
    assert rounds.next_draw(fresh) == 106
    rounds.published(3)  # nobody is deferred in a long round, so nobody reports that it is full
    assert (rounds.is_open, rounds.is_long, rounds.num_long, rounds.num_deferred) == (True, False, 1, 0)


def test_a_round_waits_for_both_reports_in_any_order():
    rounds = Rounds(1, 1, "defer")
    rounds.published(1)  # overtook the report that step 0 is full, and with it the deferred prompt
    assert not rounds.is_long and not rounds.is_open
    rounds.deferred(7)
    rounds.filled(0)
    assert rounds.is_long
    assert rounds.next_draw(lambda: 0) == 7


def test_a_sweep_opens_the_round_again():
    rounds = Rounds(1, 1, "defer")
    rounds.filled(0)
    rounds.swept()
    assert rounds.is_open
    rounds.filled(0)
    assert not rounds.is_open


def test_what_a_long_round_did_not_start_is_first_in_the_next():
    rounds = Rounds(2, 1, "defer")
    for prompt in (5, 6, 7):
        rounds.deferred(prompt)
    rounds.filled(0)
    rounds.published(1)
    assert rounds.next_draw(lambda: 0) == 5
    rounds.published(2)
    assert rounds.is_long and [rounds.next_draw(lambda: 0) for _ in range(3)] == [6, 7, 0]


def test_without_deferral_there_is_one_endless_round():
    for unfinished in ("keep", "resume"):
        rounds = Rounds(1, 3, unfinished)
        rounds.published(4)
        assert (rounds.is_open, rounds.is_long, rounds.oversample_groups, rounds.unfinished) == (
            True,
            False,
            3,
            unfinished,
        )
        assert rounds.next_draw(lambda: 9) == 9
