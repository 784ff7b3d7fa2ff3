"""Group-relative advantages: what a response's reward is worth beside the others of its prompt.

Each entry of `ADVANTAGES` maps the rewards of the n responses that are trained on, and the m rewards that the baseline
is computed over, to n advantages. The baseline set is the n themselves (`selection.baseline = "selected"`, the
paper) or all finished candidates (`"finished"`); either way it contains the n, which `rloo` relies on.

Invariants: an advantage does not depend on the order of the baseline set (beyond the last bits of a float sum); a
baseline set without variance gives exactly 0; a NaN anywhere gives NaN, never a plausible number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from darts_async.config.import_path import call_failed, is_import_path, load_function
from darts_async.errors import ConfigError

Rewards: TypeAlias = npt.NDArray[np.float32]
Advantage: TypeAlias = Callable[[Rewards, Rewards], Rewards]

STD_EPSILON = 1e-6
"""Added to the standard deviation of `grpo` (verl's value; TRL adds 1e-4)."""


def grpo(rewards: Rewards, baseline_rewards: Rewards) -> Rewards:
    """Return `(r - mean) / (std + eps)`, mean and std over the baseline set. [n], [m] -> [n] float32.

    Source: GRPO, DeepSeekMath (arXiv 2402.03300), section 4.1. The paper leaves the kind of std open; this is the
    sample std (m - 1), as in TRL and verl. Dividing by it weighs nearly solved and nearly unsolved prompts up, which
    is what `dr_grpo` removes. Without variance the result is exactly 0 instead of rounding noise over eps.
    """
    if _without_variance(baseline_rewards):
        return np.zeros_like(rewards)
    exact = baseline_rewards.astype(np.float64)
    mean, std = float(exact.mean()), float(exact.std(ddof=1))
    return ((rewards - mean) / (std + STD_EPSILON)).astype(np.float32)


def dr_grpo(rewards: Rewards, baseline_rewards: Rewards) -> Rewards:
    """Return `r - mean` over the baseline set, without the division. [n], [m] -> [n] float32.

    Source: Dr. GRPO, "Understanding R1-Zero-like training" (arXiv 2503.20783), section 3. Its other half, dividing the
    loss by a constant instead of by each response's length, is `learner.aggregation = "dr_grpo"`.
    """
    if _without_variance(baseline_rewards):
        return np.zeros_like(rewards)
    mean = float(baseline_rewards.astype(np.float64).mean())
    return (rewards - mean).astype(np.float32)


def rloo(rewards: Rewards, baseline_rewards: Rewards) -> Rewards:
    """Return each reward minus the mean of the *other* m - 1 rewards of the baseline set. [n], [m] -> [n] float32.

    Source: REINFORCE leave-one-out, Kool et al. 2019; for language models Ahmadian et al. (arXiv 2402.14740), where
    the two sets are the same. Here the baseline set may be larger (all finished candidates); the response's own
    reward, which is one of its m entries, is left out of it all the same: `(S - r) / (m - 1)`. So the baseline never
    depends on the response it judges, and the result equals `m / (m - 1) * (r - mean)`. A set of one gives 0.
    """
    if _without_variance(baseline_rewards):
        return np.zeros_like(rewards)
    total = float(baseline_rewards.astype(np.float64).sum())
    return (rewards - (total - rewards) / (baseline_rewards.size - 1)).astype(np.float32)


ADVANTAGES: dict[str, Advantage] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}
"""By the name that `learner.advantage` takes."""


def find_advantage(name: str, key: str = "learner.advantage") -> Advantage:
    """Return an estimator by its name or import path.

    A user's own is `function(rewards, baseline_rewards)`, both float32, [n] and [m], after overlong shaping; it returns
    n numbers. Raises `ConfigError` for a path that cannot be loaded; so does the estimator, when it fails or returns
    something else.
    """
    if not is_import_path(name):
        return ADVANTAGES[name]
    function = load_function(key, name, ("rewards", "baseline_rewards"))

    def advantage(rewards: Rewards, baseline_rewards: Rewards) -> Rewards:
        try:
            found = np.asarray(function(rewards.copy(), baseline_rewards.copy()), dtype=np.float32)
        except Exception as error:
            raise call_failed(key, name, error) from error
        if found.shape != rewards.shape:
            rule = f"must return {rewards.size} advantages, one for each reward, not shape {list(found.shape)}"
            raise ConfigError(key, name, rule, "Return an array like `rewards`.")
        return found

    return advantage


def _without_variance(baseline_rewards: Rewards) -> bool:
    """All equal (a comparison, so that rounding cannot turn equal rewards into a signal; false if any is NaN)."""
    return bool(np.all(baseline_rewards == baseline_rewards[:1]))
