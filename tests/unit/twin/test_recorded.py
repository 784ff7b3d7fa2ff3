"""Recorded responses are replayed with their spread and their drift; prompts keep their place."""

import statistics

import pytest

from darts_async.twin.recorded import RecordedGroup, RecordedResponse, RecordedWorkload


def group(version: int, *lengths: int, reward: float = 1.0) -> RecordedGroup:
    return RecordedGroup(version, tuple(RecordedResponse(length, reward) for length in lengths))


def test_only_what_was_recorded_comes_back():
    lengths = {10 * n + k for n in range(30) for k in range(4)}
    groups = [group(0, *(10 * n + k for k in range(4))) for n in range(30)]
    workload = RecordedWorkload(groups, 0)
    drawn = {workload.draw(prompt, seed, 0).length for prompt in range(200) for seed in range(8)}
    assert drawn <= lengths | {1} and len(drawn) > 60


def test_lengths_drift_as_they_did():
    groups = [group(version, *([1000 // (version + 1)] * 4)) for version in range(10) for _ in range(24)]
    workload = RecordedWorkload(groups, 0)
    for version in (0, 4, 9):
        drawn = [workload.draw(prompt, 1, version).length for prompt in range(50)]
        assert statistics.fmean(drawn) == pytest.approx(1000 // (version + 1), rel=0.01)
    assert workload.draw(3, 3, 99) == workload.draw(3, 3, 9)


def test_a_long_prompt_stays_long():
    groups = [group(version, *([10 * (n + 1)] * 4)) for version in range(5) for n in range(24)]
    workload = RecordedWorkload(groups, 0)
    means = {v: [workload.draw(prompt, 0, v).length for prompt in range(100)] for v in (0, 4)}
    assert statistics.correlation(means[0], means[4]) > 0.95


def test_a_cancelled_response_is_longer_than_it_got():
    cancelled = RecordedGroup(0, (RecordedResponse(50, 0.0, cancelled=True),))
    workload = RecordedWorkload([cancelled, group(0, 10, 20, 60, 90)], 0)
    drawn = [workload.draw(prompt, seed, 0).length for prompt in range(40) for seed in range(10)]
    assert 50 not in drawn and {60, 90} <= set(drawn)


def test_nothing_that_ended():
    with pytest.raises(ValueError, match="ended by itself"):
        RecordedWorkload([RecordedGroup(0, (RecordedResponse(5, 0.0, cancelled=True),))], 0)


def test_rewards_come_with_their_responses():
    workload = RecordedWorkload([group(0, 10, reward=1.0), group(0, 500, reward=0.0)], 0)
    for prompt in range(50):
        drawn = workload.draw(prompt, 0, 0)
        assert drawn.correct == (drawn.length == 10)
