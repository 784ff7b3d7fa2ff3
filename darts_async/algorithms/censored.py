"""Moments of a group's response lengths when some are only known to exceed a bound.

Lengths within a prompt are taken as log-normal, x = ln(length) ~ N(mu, sigma^2). A cancelled candidate says
`length > c`; EM (Tobit) replaces its x and x^2 by their expectations under the current fit until the fit stands still.
The prompt's own past takes part as one more sample: the fit's moments are `(1 - weight) * past + weight * group`,
which is the running average that is kept afterwards, so that the fit and the statistics never disagree and the few
lengths of one group do not have to carry the tail alone.

Only what is censored is modelled: observed lengths enter the mean and the second moment as they are. A response cannot
cost more than the cap, so what is put in for a censored one is `E[min(length, cap)^k | length > c]`; a capped response
counts as `cap` in these moments and as "longer" in the fit.

Invariants: bounded iterations; finite results for any group, also when nothing or everything is censored; the order of
the lengths does not matter (beyond the last bits of a sum).

Source: Tobin 1958 / Dempster, Laird and Rubin 1977, for type-II censored log-normal samples; the past as prior is ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from darts_async.algorithms.normal import above, hazard

__all__ = ["DEFAULT_SIGMA", "GroupMoments", "LogMoments", "group_moments"]

DEFAULT_SIGMA: Final = 0.5
"""Spread of ln(length) within a prompt before anything is known; measured medians are 0.2 (trained) and 0.9 (early)."""
_PRIOR_LENGTHS: Final = 2.0
"""Weight of the expected spread, in lengths, in the fit of a prompt's first group. Only where something is censored."""
_MIN_SIGMA: Final = 0.02
_MAX_SIGMA: Final = 3.0
_MAX_ITERATIONS: Final = 60
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class LogMoments:
    """Mean and second moment of ln(length)."""

    mean: float
    second: float

    @property
    def sigma(self) -> float:
        """The standard deviation, kept away from 0 and from absurd spreads."""
        variance = max(self.second - self.mean * self.mean, 0.0)
        return min(max(math.sqrt(variance), _MIN_SIGMA), _MAX_SIGMA)


@dataclass(frozen=True, slots=True)
class GroupMoments:
    """A group's mean and second moment, of its lengths in tokens and of their logarithms."""

    mean: float
    second: float
    log: LogMoments


def group_moments(
    observed: Sequence[int],
    censored: Sequence[int],
    *,
    cap: int,
    past: LogMoments | None = None,
    weight: float = 1.0,
    expected: LogMoments | None = None,
) -> GroupMoments:
    """Return the moments of one group. Raises `ValueError` for a group without lengths.

    observed: lengths in tokens. censored: bounds, `length > bound`. cap: the longest length possible.
    past: the prompt's running moments, of which the group makes up `weight` (0, 1] once it has entered.
    expected: what similar prompts look like; used for a prompt without a past, and only where lengths are censored.
    """
    if not observed and not censored:
        raise ValueError("a group without lengths has no moments")
    known = [max(length, 1) for length in observed if length < cap]
    num_capped = len(observed) - len(known) + sum(bound >= cap for bound in censored)
    bounds = Counter(bound + 0.5 for bound in censored if bound < cap)  # lengths are whole: > c is >= c + 1
    fitted = _fit(known, bounds, num_capped, cap, past, weight, expected)
    mean, sigma = fitted.mean, fitted.sigma
    first = float(sum(known) + num_capped * cap)
    second = float(sum(length * length for length in known) + num_capped * cap * cap)
    for bound, count in sorted(bounds.items()):
        imputed = _length_beyond(mean, sigma, bound, cap)
        first += count * imputed[0]
        second += count * imputed[1]
    total = len(observed) + len(censored)
    return GroupMoments(first / total, second / total, _log_moments(known, bounds, num_capped, cap, fitted))


def _fit(
    known: list[int],
    bounds: Counter[float],
    num_capped: int,
    cap: int,
    past: LogMoments | None,
    weight: float,
    expected: LogMoments | None,
) -> LogMoments:
    """EM to the fixed point: the moments of ln(length), the past included."""
    guess = past or _first_guess(known, bounds, num_capped, cap, expected)
    if not bounds and not num_capped:
        group = _log_moments(known, bounds, num_capped, cap, guess)
        return group if past is None else _blend(past, group, weight)
    total = len(known) + num_capped + bounds.total()
    for _ in range(_MAX_ITERATIONS):
        group = _log_moments(known, bounds, num_capped, cap, guess)
        if past is not None:
            fitted = _blend(past, group, weight)
        else:
            fitted = _regularised(group, total, len(known), expected, guess)
        moved = abs(fitted.mean - guess.mean) + abs(fitted.sigma - guess.sigma)
        guess = fitted
        if moved < _TOLERANCE:
            break
    return guess


def _first_guess(
    known: list[int], bounds: Counter[float], num_capped: int, cap: int, expected: LogMoments | None
) -> LogMoments:
    if expected is not None and not known:
        return expected
    logs = [math.log(length) for length in known] + [math.log(bound) for bound in bounds.elements()]
    logs += [math.log(cap)] * num_capped
    mean = sum(logs) / len(logs)
    sigma = DEFAULT_SIGMA if expected is None else expected.sigma
    return LogMoments(mean, mean * mean + sigma * sigma)


def _regularised(
    group: LogMoments, total: int, num_known: int, expected: LogMoments | None, guess: LogMoments
) -> LogMoments:
    """A first group's fit: its spread is drawn to the expected one; its mean too, where hardly any length is known."""
    sigma = DEFAULT_SIGMA if expected is None else expected.sigma
    variance = max(group.second - group.mean * group.mean, 0.0)
    if num_known > 1:
        variance *= num_known / (num_known - 0.5)  # the bias of a fit to few known lengths; 0.5 was measured
    variance = (total * variance + _PRIOR_LENGTHS * sigma * sigma) / (total + _PRIOR_LENGTHS)
    mean = group.mean
    if num_known < 2:
        anchor = guess.mean if expected is None else expected.mean
        mean = (total * mean + _PRIOR_LENGTHS * anchor) / (total + _PRIOR_LENGTHS)
    if num_known == 0 and expected is None:  # nothing but lower bounds: the mean must not climb for ever
        mean = guess.mean
    return LogMoments(mean, mean * mean + variance)


def _blend(past: LogMoments, group: LogMoments, weight: float) -> LogMoments:
    return LogMoments(
        (1 - weight) * past.mean + weight * group.mean, (1 - weight) * past.second + weight * group.second
    )


def _log_moments(known: list[int], bounds: Counter[float], num_capped: int, cap: int, fitted: LogMoments) -> LogMoments:
    """Mean of x and of x^2 over a group, expectations in the place of what is censored."""
    logs = [math.log(length) for length in sorted(known)]
    first, second = math.fsum(logs), math.fsum(x * x for x in logs)
    total = len(known)
    for bound, count in [*sorted(bounds.items()), (float(cap), num_capped)]:
        x = math.log(bound)
        excess = fitted.sigma * hazard((x - fitted.mean) / fitted.sigma)
        first += count * (fitted.mean + excess)
        second += count * (fitted.mean**2 + fitted.sigma**2 + excess * (x + fitted.mean))
        total += count
    return LogMoments(first / total, second / total)


def _length_beyond(mean: float, sigma: float, bound: float, cap: int) -> tuple[float, float]:
    """E[min(length, cap)^k | length > bound] for k = 1, 2."""
    low, high = (math.log(bound) - mean) / sigma, (math.log(cap) - mean) / sigma
    tail = above(low)
    moments = []
    for k in (1, 2):
        if tail < 1e-280:  # so far out that the exceedance is exponential: at the bound but for a factor
            value = bound**k
        else:
            scale = math.exp(k * mean + 0.5 * (k * sigma) ** 2)
            between = above(low - k * sigma) - above(high - k * sigma)
            value = (scale * between + float(cap) ** k * above(high)) / tail
        moments.append(min(max(value, bound**k), float(cap) ** k))
    return moments[0], moments[1]
