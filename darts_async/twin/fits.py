"""Small fits: what a real run's figures say about the models of its twin. Pure.

Both sides of a machine that generator and learner share slow each other down, so each fit has a factor for the share
of time in which the other one was at work:
`seconds = (call_s * calls + token_s * tokens) * (1 + (factor - 1) * share)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearCost", "fit_cost", "rising"]

_FACTORS: Final = np.linspace(1.0, 3.0, 81)
_MIN_SPREAD: Final = 0.1
"""Of the shares: with less, a factor cannot be told from the rest."""


@dataclass(frozen=True, slots=True)
class LinearCost:
    """Seconds of something."""

    call_s: float
    token_s: float
    factor: float
    """How much longer while the other one is at work."""
    error: float
    """Root of the mean squared difference, relative to the mean."""


def fit_cost(
    calls: Sequence[float], tokens: Sequence[float], seconds: Sequence[float], beside: Sequence[float]
) -> LinearCost:
    """Fit seconds by calls, tokens and the share of time that the other side was at work; nothing may be negative.

    The factor stays 1 where the shares hardly differ: it is then in the other two. Raises `ValueError` for no data.
    """
    n, x, y, share = (np.asarray(values, float) for values in (calls, tokens, seconds, beside))
    if not x.size:
        raise ValueError("there is nothing to fit")
    factors = _FACTORS if np.ptp(share) >= _MIN_SPREAD and x.size > 3 else np.ones(1)
    best: tuple[float, LinearCost] | None = None
    for factor in factors:
        slow = 1.0 + (factor - 1.0) * share
        per_call, per_token = _plane(slow * n, slow * x, y)
        squares = float(np.mean((slow * (per_call * n + per_token * x) - y) ** 2))
        if best is None or squares < best[0] * (1 - 1e-9):
            error = float(np.sqrt(squares) / max(np.mean(y), 1e-12))
            best = squares, LinearCost(per_call, per_token, float(factor), error)
    assert best is not None
    return best[1]


def rising(points: Sequence[tuple[float, float, int]]) -> list[tuple[float, float]]:
    """Return points whose second number never falls, nearest to the given ones weighted by the third.

    Pool-adjacent-violators (isotonic regression): a step with more candidates is not shorter.
    """
    blocks: list[tuple[float, float, float]] = []
    for x, y, weight in points:
        block = (x * weight, y * weight, float(weight))
        while blocks and blocks[-1][1] / blocks[-1][2] > block[1] / block[2]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    return [(x / weight, y / weight) for x, y, weight in blocks]


def _plane(u: NDArray[np.float64], v: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Least squares of `y = a u + b v` with a, b >= 0."""
    (a, b), *_ = np.linalg.lstsq(np.stack([u, v], axis=1), y, rcond=None)
    if a < 0:
        return 0.0, _ratio(v, y)
    if b < 0:
        return _ratio(u, y), 0.0
    return float(a), float(b)


def _ratio(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Least squares of `y = b x`."""
    squares = float(x @ x)
    return float(x @ y) / squares if squares else 0.0
