"""How many candidates a prompt should get on average: U(M) = E(M) - lambda * (T(M) / T(n) - 1), at its maximum.

E is the expected relative shortening of what is trained on, T the expected time, both at M candidates for every prompt
under the rule in force. Both follow from the prompts' log-normal lengths by order statistics: no sampling, so the same
statistics give the same budget. With N = number of a group's M draws that are at most t, N ~ Binomial(M, F(t)), every
quantity here is an expectation over N.

T, by pipeline mode:
- batches (`sync`, `stream`): the makespan of a step's groups, the integral over token positions t of
  `PTL(b) * max(1, running / b)` with b = min(running, slots), as long as anything runs.
- overlapped (`one_step_off`, `async`): decoded tokens of a group times `PTL(b) / b`, b the mean concurrency that the
  groups in flight keep up (Little: groups * tokens / duration), at most the slots.

Differs from the design's formula in two places. `max(1, running / b)`: candidates that find no slot wait; without it
a full engine would take more of them for nothing. And where more candidates take *less* time (an early stop at a heavy
tail), T counts as flat up to there: time is a price here, not a gain. So U's maximum never rises with lambda.

Consequences, and why lambda is 0.6 by default (spread: of ln(length) within a prompt, measured 0.2 in training, 0.9 in
the first steps; 8 of up to 16). PTL proportional to b gives n for lambda of at least 0.19 under `dual_end`, 0.31
under `survivor`, 0.41 under `shortest` at a spread of 0.2 (0.30, 0.56, 0.72 at 0.3). PTL flat gives the most for
lambda up to 0.77 at spreads of 0.1 to 0.3 in batches of 4 groups and more, and the bound rises with the batch; under
`survivor` and `shortest` it does at any lambda. At a heavy tail `shortest` and `survivor` stop so early that the
redundancy pays for itself even where PTL is proportional, and more than n is right at any lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from darts_async.algorithms.length_statistics import LengthProfile
from darts_async.algorithms.normal import LEVELS, SCORES, cumulative

__all__ = ["BudgetTerms", "Workload", "best_budget", "terms"]

Latency = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_NUM_TIMES: Final = 320


@dataclass(frozen=True, slots=True)
class Workload:
    """What a replica works on, and how the run selects."""

    rule: str
    """Name in the registry of selection rules."""
    group_size: int
    keep_longest: int
    groups: float
    """Groups that decode at once on one replica."""
    slots: int
    """Most candidates that decode at once on one replica."""
    overlapped: bool
    """`one_step_off` and `async`: rollout does not wait for the slowest of a step."""
    cap: int
    """max_response_tokens."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """E and T at one number of candidates."""

    num: int
    shortening: float
    """E: 1 - mean kept length / mean length at n."""
    time: float
    """T(M) / T(n)."""


def best_budget(terms_by_num: Sequence[BudgetTerms], cost_weight: float) -> int:
    """Return the number of candidates with the largest U; ties: the smallest. Never rises with `cost_weight`."""
    best, best_value, time = terms_by_num[0].num, -math.inf, 1.0
    for term in terms_by_num:
        time = max(time, term.time)
        value = term.shortening - cost_weight * (time - 1.0)
        if value > best_value + 1e-12:
            best, best_value = term.num, value
    return best


def terms(
    profiles: Sequence[LengthProfile], workload: Workload, latency: Latency, low: int, high: int
) -> list[BudgetTerms]:
    """Return E and T for every M in low..high. `profiles`: at least one prompt; all weigh the same."""
    mean = np.asarray([profile.log_mean for profile in profiles])[:, None]
    sigma = np.asarray([profile.log_sigma for profile in profiles])[:, None]
    lengths = np.minimum(np.exp(np.minimum(mean + sigma * SCORES, 50.0)), workload.cap)  # [prompts, levels]
    pooled = lengths.mean(axis=0)
    steps = np.diff(pooled, prepend=0.0)
    longest = float(lengths.max())
    times = np.concatenate(([0.0], np.geomspace(max(float(lengths.min()) * 0.5, 0.5), longest, _NUM_TIMES)))
    middles = 0.5 * (times[1:] + times[:-1])
    # Beyond the last tabulated quantile nothing runs.
    shares = np.where(middles < lengths[:, -1:], cumulative((np.log(middles) - mean) / sigma), 1.0)

    def time_at(num: int) -> float:
        group = _Group(workload, num)
        if workload.overlapped:
            tokens = float(group.running(_before(LEVELS)) @ steps)
            duration = float(group.alive(_before(LEVELS)) @ steps)
            concurrency = np.asarray(min(workload.groups * tokens / duration, float(workload.slots)))
            concurrency = np.maximum(concurrency, 1.0)
            return float(latency(concurrency) / concurrency) * tokens
        running = workload.groups * group.running(shares).mean(axis=0)
        log_none = workload.groups * np.log(np.maximum(1.0 - group.alive(shares), 1e-300)).mean(axis=0)
        anything = -np.expm1(log_none)
        now = np.maximum(running / np.maximum(anything, 1e-12), 1.0)
        slots = np.minimum(now, workload.slots)
        return float(np.sum(latency(slots) * (now / slots) * anything * np.diff(times)))

    base_time, base_kept = time_at(workload.group_size), _kept_length(pooled, workload, workload.group_size)
    return [
        BudgetTerms(num, 1.0 - _kept_length(pooled, workload, num) / base_kept, time_at(num) / base_time)
        for num in range(low, high + 1)
    ]


def _before(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of being over before the piece of length that ends at each level."""
    return np.maximum(levels - 0.5 / levels.size, 0.0)


def _sizes(workload: Workload) -> tuple[int, int]:
    """K and L of the rule."""
    longest = workload.keep_longest if workload.rule in {"dual_end", "survivor"} else 0
    return workload.group_size - longest, longest


def _kept_length(pooled: NDArray[np.float64], workload: Workload, num: int) -> float:
    """Mean length of the n that are kept of `num` draws; `pooled`: the mean quantile function at `LEVELS`.

    The mean over prompts may be taken first: an expected order statistic is linear in the quantile function.
    """
    orders = _order_weights(num) @ pooled  # [num]: expected length of the k-th shortest
    short, long = _sizes(workload)
    if workload.rule == "all" or num <= workload.group_size:
        return float(orders.mean())
    if not long:
        return float(orders[:short].mean())
    upper = orders[short:] if workload.rule == "survivor" else orders[num - long :]
    return float((orders[:short].sum() + long * upper.mean()) / workload.group_size)


def _order_weights(num: int) -> NDArray[np.float64]:
    """Share of each level in each order statistic of `num` draws: Beta(k, num - k + 1). [num, levels]."""
    below = np.arange(num)[:, None]
    weights = np.exp(_log_choose(num - 1, below) + below * np.log(LEVELS) + (num - 1 - below) * np.log1p(-LEVELS))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)


def _log_choose(num: int, taken: NDArray[np.int64]) -> NDArray[np.float64]:
    ways = [math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) for k in taken.ravel().tolist()]
    return np.asarray(ways).reshape(taken.shape)


class _Group:
    """A group of `num` candidates under a rule, as functions of the share F(t) of lengths that are at most t."""

    def __init__(self, workload: Workload, num: int) -> None:
        short, long = _sizes(workload)
        done = np.arange(num + 1)
        left = (num - done).astype(np.float64)
        if workload.rule in {"all", "dual_end"} or num <= workload.group_size:
            self._running, self._alive = left, (left > 0).astype(np.float64)
        else:
            others = num - short
            settled = done >= short
            remaining = np.minimum(left / others, 1.0)  # of the candidates behind the short end, this share still runs
            self._running = np.where(settled, long * remaining, left)
            # Until the short end is settled something runs for certain; then, each of the L does with that chance.
            self._alive = np.where(settled, 1.0 - (1.0 - remaining) ** long, 1.0)
        grid = np.linspace(0.0, 1.0, 513)
        chances = _binomial(num, grid)
        self._grid = grid
        self._mean_running = chances @ self._running
        self._mean_alive = chances @ self._alive

    def running(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected candidates that decode."""
        return np.interp(shares, self._grid, self._mean_running)

    def alive(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Chance that any candidate decodes."""
        return np.interp(shares, self._grid, self._mean_alive)


def _binomial(num: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(N = j) of Binomial(num, share). [points] -> [points, num + 1]."""
    done = np.arange(num + 1)
    inside = np.clip(shares, 1e-12, 1 - 1e-12)[:, None]
    return np.asarray(
        np.exp(_log_choose(num, done)[None, :] + done * np.log(inside) + (num - done) * np.log1p(-inside)),
        dtype=np.float64,
    )
