"""Means of a step and of the two ends of a run."""

from __future__ import annotations

import pytest

from darts_async.algorithms.group import Candidate, Status
from darts_async.algorithms.step_record import RunEnds, StepRecord


def scored(index: int, length: int, reward: float | None) -> Candidate:
    return Candidate(index, draw=0, replaceable=True, status=Status.FINISHED, tokens=length, reward=reward)


def cut(index: int, tokens: int) -> Candidate:
    return Candidate(index, draw=0, replaceable=True, status=Status.CANCELLED, tokens=tokens)


def test_means_over_all_finished_kept_rejected_and_cancelled() -> None:
    record = StepRecord()
    record.add(
        [scored(0, 10, 1.0), scored(1, 20, 0.0), scored(2, 60, 0.5)],
        kept=(0, 1),
        cancelled=[cut(3, 70), cut(4, 90)],
        last_pick_wait_s=2.0,
    )
    record.add([scored(0, 30, 1.0)], kept=(0,), last_pick_wait_s=5.0)
    assert record.metrics() == pytest.approx(
        {
            "reward/mean": 2.5 / 4,
            "reward/kept": 2 / 3,
            "reward/rejected": 0.5,
            "response_length/generated": 30,
            "response_length/kept": 20,
            "response_length/rejected": 60,
            "response_length/cancelled": 80,
            "response_length/max": 60,
            "selection/rejected_groups": 0,
            "selection/zero_variance_share": 0,
            "selection/rescued_share": 0,
            "selection/mixed_share": 0.5,
            "selection/pattern_i_share": 1,
            "selection/pattern_ii_share": 0,
            "selection/last_pick_wait_s": 3.5,
            "selection/last_pick_wait_max_s": 5,
            "candidates/5": 1,
            "candidates/1": 1,
        }
    )


def test_patterns_are_shares_of_the_mixed_groups_and_equal_means_are_neither() -> None:
    record = StepRecord()
    record.add([scored(0, 10, 1.0), scored(1, 20, 0.0)], kept=(0, 1))
    record.add([scored(0, 20, 1.0), scored(1, 5, 0.0), scored(2, 30, 0.0)], kept=(0, 1))  # wrong: 17.5 in the mean
    record.add([scored(0, 7, 1.0), scored(1, 7, 0.0)], kept=(0, 1))
    record.add([scored(0, 7, 0.9), scored(1, 70, 0.6)], kept=(0, 1))  # all correct
    values = record.metrics()
    assert values["selection/mixed_share"] == 0.75
    assert values["selection/pattern_i_share"] == pytest.approx(1 / 3)
    assert values["selection/pattern_ii_share"] == pytest.approx(1 / 3)


def test_rejected_and_rescued_groups_count_in_what_was_generated() -> None:
    record = StepRecord()
    record.add([scored(0, 10, 1.0), scored(1, 20, 1.0)], kept=(), num_sampled=4, zero_variance=True)
    record.add([scored(0, 30, 1.0), scored(1, 40, 0.0)], kept=(0, 1), num_sampled=4, zero_variance=True, rescued=True)
    values = record.metrics()
    assert values["selection/rejected_groups"] == 1
    assert (values["selection/zero_variance_share"], values["selection/rescued_share"]) == (1.0, 0.5)
    assert values["candidates/4"] == 2
    assert (values["response_length/generated"], values["response_length/kept"]) == (25, 35)


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


def test_components_are_means_over_the_candidates_that_they_apply_to() -> None:
    parts = [{"right": 1.0, "short": 0.5}, {"right": 0.0, "short": 0.1}, {"right": 1.0}]
    candidates = [scored(index, 10, 1.0) for index in range(4)]
    for candidate, components in zip(candidates, parts, strict=False):
        candidate.components = components
    record = StepRecord()
    record.add(candidates, kept=(0, 1))
    found = {name: value for name, value in record.metrics().items() if name.startswith("reward/component/")}
    assert found == pytest.approx({"reward/component/right": 2 / 3, "reward/component/short": 0.3})
