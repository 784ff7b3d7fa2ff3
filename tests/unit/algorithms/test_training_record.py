"""The learner's bookkeeping, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from darts_async.algorithms.training_record import TrainingRecord
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

_TRAINER = {"learner/loss": 0.5, "learner/logprob_diff_mean": 1e-6, "learner/logprob_diff_max": 2e-5}


def _group(group_id: int, spans: tuple[tuple[VersionSpan, ...], ...], lengths: tuple[int, ...]) -> TrainGroup:
    size, total = len(lengths), sum(lengths)
    return TrainGroup(
        group_id=group_id,
        prompt_id="p",
        step=0,
        prompt_tokens=np.ones(2, dtype=np.int32),
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(size)),
        lengths=np.array(lengths, dtype=np.int32),
        response_tokens=np.ones(total, dtype=np.int32),
        behaviour_logprobs=np.zeros(total, dtype=np.float32),
        version_spans=spans,
        rewards=np.arange(size, dtype=np.float32),
        baseline_rewards=np.arange(size, dtype=np.float32),
        baseline_lengths=np.ones(size, dtype=np.int32),
        capped=(False,) * size,
    )


def _one(version: int) -> tuple[VersionSpan, ...]:
    return (VersionSpan(version, 0),)


def _finish(record: TrainingRecord, now_s: float, version: int, **more: bool) -> dict[str, float]:
    skipped = more.get("skipped", False)
    return record.finish_step(now_s=now_s, version=version, skipped=skipped, publish_ms=4.0, trainer=_TRAINER)


def test_staleness_is_per_token_and_per_group() -> None:
    record = TrainingRecord()
    record.begin(0.0)
    # step 3: 10 tokens of version 1 and then 2 of version 3, and 4 of version 2: (10 * 2 + 2 * 0 + 4 * 1) / 16
    record.accept(_group(0, ((VersionSpan(1, 0), VersionSpan(3, 10)), _one(2)), (12, 4)), version=3)
    values = _finish(record, 1.0, 4)
    assert values["staleness/mean"] == pytest.approx(24 / 16)
    assert values["staleness/max"] == 2
    assert values["response_length/kept"] == 8 and values["reward/kept"] == 0.5
    assert values["policy_version"] == 4


def test_times_and_idle_ratio() -> None:
    record = TrainingRecord()
    record.begin(100.0)
    record.accept(_group(0, (_one(0), _one(0)), (3, 5)), 0)
    record.waited(30.0)  # the first evaluation and the first rollouts
    record.computed(1.0)
    first = _finish(record, 132.0, 1)
    assert first["learner/step_s"] == 32 and first["learner/wait_s"] == 30
    assert first["learner/idle_ratio"] == pytest.approx(30 / 32) == record.idle_ratio
    record.accept(_group(1, (_one(1), _one(1)), (3, 5)), 1)
    record.waited(1.0)
    second = _finish(record, 136.0, 2)
    assert second["learner/step_s"] == 4 and second["learner/idle_ratio"] == 0.25
    assert record.idle_ratio == 0.25  # from the second step on
    summary = record.summary()
    assert (summary["wall_s"], summary["wait_s"], summary["busy_s"]) == (36, 31, 5)
    assert summary["steps"] == 2 and summary["idle_ratio"] == 0.25


def test_parity_is_that_of_the_first_step() -> None:
    record = TrainingRecord()
    record.begin(0.0)
    _finish(record, 1.0, 1)
    record.finish_step(now_s=2.0, version=2, skipped=False, publish_ms=1.0, trainer={"learner/logprob_diff_mean": 9.0})
    summary = record.summary()
    assert (summary["logprob_parity/mean"], summary["logprob_parity/max"]) == (1e-6, 2e-5)


def test_first_and_last_are_a_tenth_of_the_steps() -> None:
    record = TrainingRecord()
    record.begin(0.0)
    for step in range(20):
        record.accept(_group(step, (_one(step), _one(step)), (step + 1, step + 3)), step)
        _finish(record, float(step + 1), step + 1)
    summary = record.summary()
    assert summary["response_length_kept/first"] == pytest.approx((2 + 3) / 2)
    assert summary["response_length_kept/last"] == pytest.approx((20 + 21) / 2)


def test_what_is_not_finite_or_never_measured_is_left_out() -> None:
    record = TrainingRecord()
    record.begin(5.0)
    assert set(record.summary()) == {
        "steps", "skipped_steps", "swept_groups", "trained_tokens", "wall_s", "wait_s", "busy_s",
    }  # fmt: skip
    values = record.finish_step(now_s=5.0, version=1, skipped=True, publish_ms=1.0, trainer={"learner/loss": math.nan})
    assert "learner/loss" not in values and values["learner/skipped_steps"] == 1
    assert all(math.isfinite(value) for value in values.values())
    assert record.summary()["skipped_steps"] == 1 and "logprob_parity/mean" not in record.summary()
