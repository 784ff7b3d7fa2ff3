"""Tail pruning: which saturated prompts of a batch may use early stop, within an allowance.

Every prompt adds `fraction` to the allowance, every pruned one takes 1; what is not used carries over, so that small
batches get their share too. Invariant: pruned so far <= fraction * prompts so far.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PruningAllowance"]


class PruningAllowance:
    """How many prompts may still be pruned."""

    def __init__(self, fraction: float, carried: float = 0.0) -> None:
        """`fraction` in [0, 1]; `carried` restores an allowance."""
        self._fraction = fraction
        self.carried = carried

    def choose(self, signals: ArrayLike, saturated: ArrayLike) -> NDArray[np.bool_]:
        """Take a batch; return which of its prompts to prune: the saturated ones with the largest signals.

        signals: [num_prompts]. saturated: bool [num_prompts], at the upper bound. Ties: the smaller index.
        """
        values = np.asarray(signals, dtype=np.float64)
        candidates = np.flatnonzero(np.asarray(saturated, dtype=np.bool_))
        self.carried += self._fraction * values.size
        num = min(math.floor(self.carried + 1e-9), candidates.size)
        chosen = candidates[np.argsort(-values[candidates], kind="stable")[:num]]
        self.carried -= num
        pruned = np.zeros(values.size, dtype=np.bool_)
        pruned[chosen] = True
        return pruned
