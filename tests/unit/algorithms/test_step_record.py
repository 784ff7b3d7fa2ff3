"""Means of a step and of the two ends of a run."""

from __future__ import annotations

import pytest

from darts_async.algorithms.group import Candidate, Status
from darts_async.algorithms.step_record import RunEnds, StepRecord


def scored(index: int, length: int, reward: float | None) -> Candidate:
    return Candidate(index, draw=0, replaceable=True, status=Status.FINISHED, tokens=length, reward=reward)


def test_means_over_all_finished_kept_and_rejected() -> None:
    record = StepRecord()
    record.add([scored(0, 10, 1.0), scored(1, 20, 0.0), scored(2, 60, 0.5)], kept=(0, 1))
    record.add([scored(0, 30, 1.0)], kept=(0,))
    assert record.metrics() == pytest.approx(
        {
            "reward/mean": 2.5 / 4,
            "reward/kept": 2 / 3,
            "response_length/generated": 30,
            "response_length/kept": 20,
            "response_length/rejected": 60,
            "response_length/max": 60,
        }
    )


def test_a_step_without_groups_has_no_means() -> None:
    assert StepRecord().metrics() == {}


def test_an_unscored_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="not scored"):
        StepRecord().add([scored(0, 1, None)], kept=(0,))


@pytest.mark.parametrize(("num_steps", "first", "last"), [(1, 0.0, 0.0), (10, 0.0, 9.0), (25, 1.0, 23.0)])
def test_first_and_last_tenth_of_the_steps(num_steps: int, first: float, last: float) -> None:
    ends = RunEnds()
    for step in range(num_steps):
        record = StepRecord()
        record.add([scored(0, 2 * step, float(step)), scored(1, 2 * step + 2, float(step))], kept=(0, 1))
        ends.add(record)
    assert ends.summary() == {
        "reward/first": first,
        "reward/last": last,
        "response_length/first": 2 * first + 1,
        "response_length/last": 2 * last + 1,
    }


def test_no_steps_no_summary() -> None:
    assert RunEnds().summary() == {}
