"""The step's objective: what a micro-batch adds to the loss, to its denominator and to the diagnostics.

Nothing here averages: results are sums, so that any split of a step into micro-batches gives the same gradient. The
sum over the step is divided once by the sum of the denominators, before the optimiser's update.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from darts_async.engines.losses import CORRECTIONS, LOSSES
from darts_async.engines.token_sums import TokenSums

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.loss_tokens import LossTokens

__all__ = ["Objective"]


class Objective:
    """The configured loss, correction, aggregation and regularisers. Stateless."""

    def __init__(self, config: Config) -> None:
        self._settings = config.learner

    def __call__(self, tokens: LossTokens) -> tuple[torch.Tensor, TokenSums]:
        """Return the sum of the token losses (a scalar with gradient) and the sums of the diagnostics.

        A log-prob difference that is not finite makes the token's loss NaN instead of a capped, plausible number.
        """
        settings = self._settings
        policy = tokens.policy.detach()
        difference = policy - tokens.behaviour
        assert isinstance(settings.correction, str)
        reference = CORRECTIONS[settings.correction](policy, tokens.behaviour, settings)
        terms = LOSSES[settings.loss](tokens.policy, reference, tokens.advantages, settings)
        losses = torch.where(torch.isfinite(difference), terms.losses, math.nan)
        total = losses.sum()
        same = difference[tokens.current].abs()
        return total, TokenSums(
            loss=float(total.detach()),
            tokens=policy.numel(),
            denominator=float(policy.numel()),
            clipped=int(terms.clipped.sum()),
            capped=int(reference.capped.sum()),
            # k3 of KL(mu || pi) on samples of mu: (r - 1) - log r with r = pi / mu (Schulman 2020). Never negative.
            mismatch_kl=float((torch.expm1(difference) - difference).sum()),
            ratio_max=float(difference.max().exp()) if policy.numel() else 0.0,
            same_version_tokens=same.numel(),
            same_version_diff=float(same.sum()),
            same_version_diff_max=float(same.max()) if same.numel() else 0.0,
        )
