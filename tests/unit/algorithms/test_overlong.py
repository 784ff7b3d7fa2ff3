"""Overlong shaping by hand, and through a group to its advantages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.group_advantages import GroupAdvantages
from darts_async.algorithms.overlong import soft_overlong
from darts_async.config import Config
from darts_async.messages import TrainGroup, VersionSpan, candidate_id


def _f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def _i32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_linear_over_the_buffer_and_whole_at_the_cap() -> None:
    # cap 100, buffer 20: nothing up to 80, a quarter of the penalty at 85, all of it at 100
    shaped = soft_overlong(
        _f32(1, 1, 1, 0, 1), _i32(10, 80, 85, 90, 100), max_response_tokens=100, buffer_tokens=20, penalty=2.0
    )
    assert shaped.dtype == np.float32
    assert shaped.tolist() == pytest.approx([1.0, 1.0, 0.5, -1.0, -1.0])


def test_a_buffer_of_0_is_off_and_a_reward_that_is_no_number_stays_one() -> None:
    rewards = _f32(1, np.nan)
    off = soft_overlong(rewards, _i32(100, 100), max_response_tokens=100, buffer_tokens=0, penalty=1.0)
    np.testing.assert_array_equal(off, rewards)
    on = soft_overlong(rewards, _i32(100, 100), max_response_tokens=100, buffer_tokens=10, penalty=1.0)
    assert on[0] == 0.0 and np.isnan(on[1])


@given(st.lists(st.integers(1, 64), min_size=2, max_size=8), st.integers(1, 63), st.floats(0, 3))
def test_longer_never_pays_and_nobody_loses_more_than_the_penalty(
    lengths: list[int], buffer: int, penalty: float
) -> None:
    lengths.sort()
    shaped = soft_overlong(
        np.ones(len(lengths), np.float32),
        np.array(lengths, np.int32),
        max_response_tokens=64,
        buffer_tokens=buffer,
        penalty=penalty,
    )
    assert np.all(np.diff(shaped) <= 0)
    assert np.all((shaped <= 1) & (shaped >= np.float32(1 - penalty) - 1e-6))


def test_rewards_and_baseline_are_shaped_each_by_its_own_length() -> None:
    config = Config.model_validate(
        {
            "model": {"max_response_tokens": 8},
            "learner": {"advantage": "dr_grpo", "overlong_buffer_tokens": 4, "overlong_penalty": 1.0},
        }
    )
    lengths = [2, 6, 8]
    group = TrainGroup(
        group_id=0,
        prompt_id="p",
        step=0,
        prompt_tokens=_i32(1),
        candidate_ids=tuple(candidate_id(0, index) for index in range(3)),
        lengths=np.array(lengths, np.int32),
        response_tokens=np.arange(16, dtype=np.int32),
        behaviour_logprobs=np.full(16, -1, np.float32),
        version_spans=((VersionSpan(0, 0),),) * 3,
        rewards=_f32(1, 1, 0),
        baseline_rewards=_f32(1, 1, 0, 1),
        baseline_lengths=_i32(2, 6, 8, 5),
        capped=(False, False, True),
    )
    # shaped: 1, 1 - 2/4, 0 - 4/4 | and 1 - 1/4 of the one that is only in the baseline; their mean is 1.25 / 4
    mean = (1 + 0.5 - 1 + 0.75) / 4
    assert GroupAdvantages(config)(group).tolist() == pytest.approx([1 - mean, 0.5 - mean, -1 - mean])
