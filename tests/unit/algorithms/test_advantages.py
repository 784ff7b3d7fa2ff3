"""Advantages: hand-computed values, then what holds for any rewards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.advantages import ADVANTAGES, STD_EPSILON, dr_grpo, find_advantage, grpo, rloo
from darts_async.errors import ConfigError

_REWARD = st.floats(-4, 4, width=32)


def _f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_grpo_by_hand() -> None:
    # mean 0.25; squared deviations .5625 + 3 * .0625 = .75; sample std sqrt(.75 / 3) = .5
    rewards = _f32(1, 0, 0, 0)
    expected = [0.75 / (0.5 + STD_EPSILON)] + [-0.25 / (0.5 + STD_EPSILON)] * 3
    np.testing.assert_allclose(grpo(rewards, rewards), expected, rtol=1e-6)


def test_dr_grpo_by_hand() -> None:
    rewards = _f32(1, 0, 0, 0)
    np.testing.assert_array_equal(dr_grpo(rewards, rewards), _f32(0.75, -0.25, -0.25, -0.25))


def test_rloo_by_hand() -> None:
    # others of the first: (0, 0, 2) mean 2/3; of the last: (1, 0, 0) mean 1/3; of a zero: (1, 0, 2) mean 1
    rewards = _f32(1, 0, 0, 2)
    np.testing.assert_allclose(rloo(rewards, rewards), [1 / 3, -1, -1, 5 / 3], rtol=1e-6)


def test_a_larger_baseline_set_moves_the_mean() -> None:
    selected, finished = _f32(1, 0), _f32(1, 0, 0, 0, 0)  # mean 0.2, squared deviations .64 + 4 * .04 = .8
    std = (0.8 / 4) ** 0.5 + STD_EPSILON
    np.testing.assert_allclose(dr_grpo(selected, finished), [0.8, -0.2], rtol=1e-6)
    np.testing.assert_allclose(grpo(selected, finished), [0.8 / std, -0.2 / std], rtol=1e-6)
    # the first leaves (0, 0, 0, 0), the second leaves (1, 0, 0, 0)
    np.testing.assert_allclose(rloo(selected, finished), [1.0, -0.25], rtol=1e-6)


def test_equal_selected_rewards_keep_their_signal_against_a_mixed_baseline() -> None:
    assert (dr_grpo(_f32(1, 1), _f32(1, 1, 0, 0)) == 0.5).all()


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_zero_variance_is_exactly_zero(name: str, value: float, size: int) -> None:
    rewards = np.full(size, value, dtype=np.float32)
    assert not ADVANTAGES[name](rewards, rewards).any()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_nan_reward_is_never_a_plausible_number(name: str) -> None:
    rewards = _f32(1, np.nan, 0)
    assert np.isnan(ADVANTAGES[name](rewards, rewards)).all()
    assert np.isnan(ADVANTAGES[name](_f32(np.nan, np.nan), _f32(np.nan, np.nan))).all()


@pytest.mark.parametrize("name", ADVANTAGES)
@given(rewards=st.lists(_REWARD, min_size=2, max_size=16), shift=st.sampled_from([-2.0, 0.5, 3.0]))
def test_properties(name: str, rewards: list[float], shift: float) -> None:
    values = _f32(*rewards)
    advantages = ADVANTAGES[name](values, values)
    assert advantages.dtype == np.float32 and advantages.shape == values.shape
    scale = float(np.abs(advantages).max()) + 1.0
    assert abs(float(advantages.sum())) <= 1e-4 * scale * len(rewards)  # centred
    order = np.argsort(values, kind="stable")
    assert (np.diff(advantages[order]) >= 0).all()  # a better reward is never worth less
    np.testing.assert_allclose(ADVANTAGES[name](values, values[::-1]), advantages, rtol=1e-4, atol=1e-5)
    spread = float(values.max() - values.min())
    if spread > 1e-2:  # below that, the shift's own rounding in float32 is what one would measure
        shifted = ADVANTAGES[name](values + np.float32(shift), values + np.float32(shift))
        np.testing.assert_allclose(shifted, advantages, rtol=1e-2, atol=1e-3)


@given(rewards=st.lists(_REWARD, min_size=2, max_size=12), extra=st.lists(_REWARD, max_size=6))
def test_rloo_equals_its_closed_form(rewards: list[float], extra: list[float]) -> None:
    baseline = np.array(rewards + extra, dtype=np.float64)
    m = baseline.size
    expected = m / (m - 1) * (baseline[: len(rewards)] - baseline.mean())
    got = rloo(_f32(*rewards), _f32(*rewards, *extra))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_users_own_estimator_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n\n"
        "def best_of(rewards, baseline_rewards):\n"
        "    rewards -= 0  # its own copy\n"
        "    return rewards - np.float64(baseline_rewards.max())\n\n"
        "def too_few(rewards, baseline_rewards):\n    return rewards[1:]\n\n"
        "def broken(rewards, baseline_rewards):\n    return rewards / {}\n"
    )
    rewards = _f32(1, 0.25, 0)
    rewards.flags.writeable = False
    found = find_advantage(f"{file}:best_of")(rewards, _f32(1, 0.25, 0, 2))
    assert found.dtype == np.float32 and found.tolist() == [-1.0, -1.75, -2.0]
    with pytest.raises(ConfigError, match=r"learner.advantage = .*must return 3 advantages.*not shape \[2\]"):
        find_advantage(f"{file}:too_few")(rewards, rewards)
    with pytest.raises(ConfigError, match=r"broken.*raised TypeError.*mine.py, line 11"):
        find_advantage(f"{file}:broken")(rewards, rewards)
