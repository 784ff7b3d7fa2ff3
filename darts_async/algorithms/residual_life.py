"""What a cancelled response would still have cost: the mean residual life of response lengths.

The lengths that are seen are censored: a cancelled response shows only that its length exceeds what it had. Leaving
those out would bias the estimate to the short side, so survival S(t) = P(length > t) is the Kaplan-Meier estimate
over finished lengths (events) and cancelled ones (right-censored at their token count). A response at the cap is an
event there: it cannot cost more. The remaining cost of one cancelled at c tokens is
`E[length - c | length > c] = sum_{t=c}^{cap-1} S(t) / S(c)`.

Two limits to know. Beyond the longest length that was ever seen the curve is taken as zero (Efron's convention), so
the estimate claims no saving that the data does not show, apart from the one token that "longer than c" implies.
And all prompts are pooled: prompts with long answers are cancelled later, which the pool does not see.

Must never hold more than a few arrays of `max_response_tokens` numbers, however long the run is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ResidualLife", "mean_residual_life"]


def mean_residual_life(finished: NDArray[np.int64], censored: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected tokens still to come above each token count.

    finished, censored: int64 [cap + 1], how many responses ended (were cut) at exactly that many tokens.
    Returns float64 [cap + 1]: at c, `E[length - c | length > c]`; at least 1 below the cap, 0 at the cap.
    """
    cap = finished.size - 1
    at_risk = np.cumsum((finished + censored)[::-1])[::-1]
    hazard = np.divide(finished, at_risk, out=np.zeros(cap + 1), where=at_risk > 0)
    survival = np.cumprod(1.0 - hazard)
    survival[at_risk == 0] = 0.0
    # Efron: whoever is at risk last is taken to end right there.
    seen = np.flatnonzero(at_risk)
    if seen.size:
        survival[seen[-1]] = 0.0
    ahead = np.cumsum(survival[::-1])[::-1]
    expected = np.divide(ahead, survival, out=np.zeros(cap + 1), where=survival > 0)
    expected[:cap] = np.maximum(expected[:cap], 1.0)
    expected[cap] = 0.0
    return np.asarray(np.minimum(expected, cap - np.arange(cap + 1)), dtype=np.float64)


class ResidualLife:
    """Running counts of finished and cancelled lengths, and the saving they imply."""

    def __init__(self, cap: int) -> None:
        """`cap`: max_response_tokens. Longer lengths count as the cap."""
        self.cap = cap
        self._finished = np.zeros(cap + 1, dtype=np.int64)
        self._cancelled = np.zeros(cap + 1, dtype=np.int64)
        self._counted = np.zeros(cap + 1, dtype=np.int64)

    def finished(self, length: int) -> None:
        """A response ended with `length` tokens, by itself or at the cap."""
        self._finished[min(length, self.cap)] += 1

    def cancelled(self, tokens: int) -> None:
        """A response was cut after `tokens` tokens."""
        self._cancelled[min(tokens, self.cap)] += 1

    def tokens_saved(self) -> float:
        """What all the cancelled responses would still have cost, in tokens, from what is known by now."""
        if not self._cancelled.any():
            return 0.0
        return float(self._cancelled @ mean_residual_life(self._finished, self._cancelled))

    def tokens_saved_since(self) -> float:
        """The same of the responses that were cancelled since the last call."""
        new = self._cancelled - self._counted
        self._counted = self._cancelled.copy()
        if not new.any():
            return 0.0
        return float(new @ mean_residual_life(self._finished, self._cancelled))
