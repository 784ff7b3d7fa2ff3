"""How many candidates each prompt gets: the same for all, or shares of a total by a signal, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Allocation", "Allotment", "Allotter", "FixedMean", "allocate", "weights"]

MIN_WEIGHT = 1e-3
"""Smallest weight relative to the mean: a prompt without spread still takes part."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """What the prompt of a draw gets."""

    draw: int
    """Of the prompt order."""
    num_candidates: int
    rule: str = ""
    """Selection rule for this group; empty: the run's."""


class Allotter(Protocol):
    """Draws prompts and says how many candidates each of them gets."""

    @property
    def waits(self) -> bool:
        """Whether `published` may come only when all that was trained for the version has been observed."""

    def draw(self, fresh: Callable[[], int], *, lane: bool = False) -> Allotment:
        """Return the next draw's allotment. `fresh` gives its number; draws of two lanes are never mixed up."""

    def published(self, version: int) -> None:
        """A policy version is out (and what was trained for it is known, if that `waits`); versions may repeat."""

    def is_behind(self, version: int) -> bool:
        """Whether the next draw has to wait for `published(version)`."""


class FixedMean:
    """The same number for every prompt, up to rounding: the first i draws get floor(i * mean) candidates in all.

    A fractional mean alternates between its two neighbours as evenly as integers allow; what a draw gets depends on
    nothing else, so it gets the same again when its group was lost. Bounds are the caller's:
    `low <= mean <= high` with integer bounds keeps every single number within them.
    """

    def __init__(self, mean: float) -> None:
        if mean < 1:
            raise ValueError(f"a mean of {mean} candidates leaves prompts without any")
        self.mean = mean
        """May change: draws from then on get as many as if it had always been so."""

    def candidates(self, draw: int) -> int:
        """Return the number of candidates that a draw gets."""
        return math.floor((draw + 1) * self.mean + 1e-9) - math.floor(draw * self.mean + 1e-9)

    @property
    def waits(self) -> bool:
        """See `Allotter`."""
        return False

    def draw(self, fresh: Callable[[], int], *, lane: bool = False) -> Allotment:  # noqa: ARG002 - nothing is drawn ahead
        """See `Allotter`."""
        draw = fresh()
        return Allotment(draw, self.candidates(draw))

    def published(self, version: int) -> None:
        """Nothing is learned."""

    def is_behind(self, version: int) -> bool:  # noqa: ARG002 - nothing is learned
        """Never."""
        return False


@dataclass(frozen=True, slots=True)
class Allocation:
    """Candidates per prompt, and by how much the total that was asked for had to be changed."""

    counts: NDArray[np.int64]
    """int64 [num_prompts]."""
    clamped: int
    """Candidates given beyond (positive) or short of (negative) the total, because of the bounds; 0: feasible."""


def weights(signals: ArrayLike) -> NDArray[np.float64]:
    """Return `max(signal / mean(signal), 1e-3)`. [num_prompts] -> float64 [num_prompts].

    Without a usable scale (mean zero, or anything not finite or negative) all weigh the same.
    """
    values = np.asarray(signals, dtype=np.float64)
    mean = float(values.mean()) if values.size else 0.0
    if not math.isfinite(mean) or mean <= 0 or bool((values < 0).any()):
        return np.ones(values.size)
    return np.maximum(values / mean, MIN_WEIGHT)


def allocate(signals: ArrayLike, total: int, low: int, high: int) -> Allocation:
    """Minimise `sum_i w_i / M_i` over integers `low <= M_i <= high` with `sum_i M_i = total`.

    signals: [num_prompts], w = `weights(signals)`. Equal gains go to the smaller index. A total that the bounds do not
    allow is clamped and reported, never raised. Raises `ValueError` for bounds that are none (`1 <= low <= high`).

    Exact. Proof sketch: the gain of prompt i's step m -> m + 1 is g_i(m) = w_i / (m (m + 1)), and it falls strictly
    with m. A plan's objective is that of all-low minus the gains of its steps. Among plans with the same number of
    steps the best sum takes the largest gains of all prompts' steps, and because each prompt's gains fall, those are a
    prefix for every prompt: a legal plan. So the optimum is "all steps with a gain above t, then of those equal to t
    as many as are left", t being the gain of the last step. t is found by bisection on the bit pattern of a positive
    double (whose order is that of the numbers), so it is exact and takes at most 63 rounds; gains are compared as
    `w / (m (m + 1))` in double precision, as a greedy heap would. A prompt has at most one step at t, so the
    remainder, in order of index, is what that heap would do.

    Source: the solver of arXiv 2605.30859 takes unit steps over a list (quadratic) with weights shifted by one token.
    """
    if not 1 <= low <= high:
        raise ValueError(f"bounds {low}..{high} allow no allocation")
    share = weights(signals)
    num = share.size
    feasible = min(max(total, num * low), num * high)
    steps = feasible - num * low
    counts = np.full(num, low, dtype=np.int64)
    if steps == num * (high - low):
        counts[:] = high
    elif steps:
        threshold, counts = _threshold(share, steps, low, high)
        left = feasible - int(counts.sum())
        if left < 0:  # more steps reach the threshold than there are: those above it, then some at it
            at_least = counts
            counts = _reached(share, math.nextafter(threshold, math.inf), low, high)
            left = feasible - int(counts.sum())
            counts[np.flatnonzero(at_least > counts)[:left]] += 1
    return Allocation(counts, feasible - total)


def _threshold(share: NDArray[np.float64], steps: int, low: int, high: int) -> tuple[float, NDArray[np.int64]]:
    """Return the largest t (or an equivalent) that at least `steps` gains reach, and what all prompts get at it."""
    below = _bits(float(share.min()) / (high * (high + 1.0)))
    beyond = _bits(float(share.max()) / (low * (low + 1.0))) + 1
    best = _reached(share, _number(below), low, high)
    wanted = steps + share.size * low
    while beyond - below > 1:
        middle = (below + beyond) // 2
        counts = _reached(share, _number(middle), low, high)
        reached = int(counts.sum())
        if reached >= wanted:
            below, best = middle, counts
            if reached == wanted:
                break
        else:
            beyond = middle
    return _number(below), best


def _reached(share: NDArray[np.float64], threshold: float, low: int, high: int) -> NDArray[np.int64]:
    """How many candidates each prompt has when it takes every step whose gain is at least the threshold."""
    guess = np.floor(0.5 * (1.0 + np.sqrt(1.0 + 4.0 * share / threshold)))  # the root of m (m - 1) = w / t
    counts = np.clip(guess, low, high)
    # The root may be off by rounding; the gains themselves decide.
    counts -= (counts > low) & (share / np.maximum(counts * (counts - 1.0), 1.0) < threshold)
    counts += (counts < high) & (share / (counts * (counts + 1.0)) >= threshold)
    return counts.astype(np.int64)


def _bits(number: float) -> int:
    return int(np.float64(number).view(np.int64))


def _number(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
