"""The standard normal distribution, as far as log-normal lengths need it. Scalars, and one table for arrays.

Must never return NaN for a finite argument: far tails use their asymptotic series.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVELS", "SCORES", "above", "cumulative", "hazard", "quantile"]

_FAR: Final = 12.0
"""From here on the hazard's series is exact to a relative 1e-5; `erfc` itself underflows near 38."""
_NUM_LEVELS: Final = 512

quantile = NormalDist().inv_cdf
"""Probability in (0, 1) to score."""

LEVELS: Final[NDArray[np.float64]] = (np.arange(_NUM_LEVELS) + 0.5) / _NUM_LEVELS
"""float64 [512]: midpoints of equal shares of probability."""
SCORES: Final[NDArray[np.float64]] = np.asarray([quantile(level) for level in LEVELS.tolist()])
"""float64 [512]: the scores at `LEVELS`."""
_TABLE_SCORES: Final = np.linspace(-8.0, 8.0, 3201)
_TABLE_LEVELS: Final = np.asarray([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in _TABLE_SCORES.tolist()])


def above(score: float) -> float:
    """P(Z > score)."""
    return 0.5 * math.erfc(score / math.sqrt(2.0))


def hazard(score: float) -> float:
    """E[Z | Z > score]: density over upper tail (the inverse Mills ratio)."""
    if score > _FAR:
        return score + 1.0 / score - 2.0 / score**3
    return math.exp(-0.5 * score * score) / (math.sqrt(2.0 * math.pi) * above(score))


def cumulative(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(Z <= score) for an array, by linear interpolation in a table (error below 1e-6)."""
    return np.asarray(np.interp(scores, _TABLE_SCORES, _TABLE_LEVELS), dtype=np.float64)
