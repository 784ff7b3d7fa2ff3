"""How far the policy has moved since a token was sampled, by the token's age in versions. Pure.

Invariant: figures are sums over tokens, so that micro-batches and processes add up to the step in any split and order;
an age that did not occur has no figures (not zeros).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_AGE", "AgeCurves"]

MAX_AGE: Final = 8
"""Ages of 8 and more share a bucket: a bound on the number of metrics; the sweep's bound is `max_staleness`."""

_FIGURES: Final = ("tokens", "ratio", "log_ratio_abs", "kl", "advantage", "advantage_abs")


class AgeCurves:
    """Sums over the tokens of a step by age."""

    def __init__(self) -> None:
        self.sums: npt.NDArray[np.float64] = np.zeros((MAX_AGE + 1, len(_FIGURES)))
        """[ages, figures]: additive over processes as it is."""

    def add(
        self,
        ages: npt.NDArray[np.int64],
        policy: npt.NDArray[np.floating],
        behaviour: npt.NDArray[np.floating],
        advantages: npt.NDArray[np.floating],
    ) -> None:
        """Add T tokens. All [T]: age in versions, log-probs under the policy and as sampled, advantage."""
        difference = policy.astype(np.float64) - behaviour.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # such a token spoils its bucket's mean, not the run
            ratio = np.exp(difference)
            kl = np.expm1(difference) - difference
        columns = (np.ones_like(difference), ratio, np.abs(difference), kl, advantages, np.abs(advantages))
        buckets = np.clip(ages, 0, MAX_AGE)
        for index, values in enumerate(columns):
            self.sums[:, index] += np.bincount(buckets, weights=values, minlength=MAX_AGE + 1)

    def metrics(self) -> dict[str, float]:
        """Means over the tokens of each age that occurred, as `age/<age>/<figure>`.

        `tokens`: how many. `ratio`: pi / mu; 1 in expectation over all samples of mu. `log_ratio_abs`:
        |log pi / mu|.
        `kl`: k3 estimate of KL(mu || pi), as `mismatch_kl`. `advantage` and `advantage_abs`: whether old tokens are
        those of good or bad, easy or hard responses.
        """
        return dict(self._named())

    def _named(self) -> Iterator[tuple[str, float]]:
        for age in np.flatnonzero(self.sums[:, 0]).tolist():
            tokens, *others = self.sums[age].tolist()
            yield f"age/{age}/tokens", tokens
            for figure, total in zip(_FIGURES[1:], others, strict=True):
                yield f"age/{age}/{figure}", total / tokens
