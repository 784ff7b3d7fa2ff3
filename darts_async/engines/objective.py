"""The step's objective: what a micro-batch adds to the loss, to its denominator and to the diagnostics.

Nothing here averages: results are sums, so that any split of a step into micro-batches gives the same gradient. The
sum over the step is divided once by the sum of the denominators, before the optimiser's update.

Invariant: a number that is not finite (a log-prob difference, an advantage) makes its token's loss NaN, masked or
not, instead of a capped, plausible number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from darts_async.config.choices import correction_names
from darts_async.engines.aggregation import denominator, weighted_sum
from darts_async.engines.corrections import correct
from darts_async.engines.loss_terms import LossTerms, Reference
from darts_async.engines.losses import find_loss
from darts_async.engines.token_sums import TokenSums

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_tokens import LossTokens

__all__ = ["Objective", "diagnostics", "reference_kl", "regularised", "terms"]


def terms(
    tokens: LossTokens, loss: str, correction: str | Sequence[str], settings: LearnerSection
) -> tuple[LossTerms, Reference]:
    """Return any pair of loss and correction on these tokens; `losses` [T] weighted and masked, with gradient.

    Masked tokens have loss 0 and no gradient. The loss sees them at a ratio of 1, so that a ratio which overflows
    there cannot turn into 0 * inf = NaN.
    """
    reference = correct(tokens, correction_names(correction), settings)
    seen = dataclasses.replace(tokens, policy=torch.where(reference.masked, reference.old_logprobs, tokens.policy))
    found = find_loss(loss)(seen, reference, settings)
    losses = torch.where(reference.masked, 0.0, reference.weights * found.losses)
    losses = torch.where(_finite(tokens), losses, math.nan)
    return LossTerms(losses, found.clipped & ~reference.masked), reference


def regularised(
    losses: torch.Tensor, tokens: LossTokens, reference: Reference, settings: LearnerSection
) -> torch.Tensor:
    """Add the KL to the reference policy and the entropy bonus, where they have a weight, to token losses. [T] -> [T]

    They are part of each token's loss: aggregated as the rest of it, and left out with it where a correction masks the
    token. No importance weight is put on them.
    """
    if settings.kl_weight > 0 and tokens.reference is not None:
        seen = dataclasses.replace(tokens, policy=torch.where(reference.masked, tokens.reference, tokens.policy))
        losses = losses + settings.kl_weight * reference_kl(seen)
    if settings.entropy_weight > 0 and tokens.entropy is not None:
        losses = losses - settings.entropy_weight * torch.where(reference.masked, 0.0, tokens.entropy)
    return losses


def reference_kl(tokens: LossTokens) -> torch.Tensor:
    """Return the k3 estimate of KL(pi || reference) for each token, with gradient. [T], never negative.

    `exp(d) - d - 1` with `d = log reference - log pi` (Schulman 2020; GRPO, arXiv 2402.03300, equation 4). The samples
    are of the behaviour policy and no importance weight is put on them, as in GRPO.
    """
    assert tokens.reference is not None
    difference = tokens.reference - tokens.policy
    return torch.expm1(difference) - difference


def _finite(tokens: LossTokens) -> torch.Tensor:
    policy = tokens.policy.detach()
    finite = (policy - tokens.behaviour).isfinite() & (tokens.proximal - tokens.behaviour).isfinite()
    return finite & tokens.advantages.isfinite()


class Objective:
    """The configured loss, correction, aggregation and regularisers. Stateless."""

    def __init__(self, config: Config) -> None:
        """Raises `ConfigError` for a loss that cannot be loaded."""
        self._config = config
        find_loss(config.learner.loss)

    def __call__(self, tokens: LossTokens) -> tuple[torch.Tensor, TokenSums]:
        """Return the weighted sum of the token losses (a scalar with gradient) and the sums of the diagnostics."""
        settings = self._config.learner
        found, reference = terms(tokens, settings.loss, settings.correction, settings)
        losses = regularised(found.losses, tokens, reference, settings)
        total = weighted_sum(losses, tokens, self._config)
        sums = diagnostics(tokens, found, reference)
        sums.loss = float(total.detach())
        sums.denominator = denominator(tokens, self._config)
        return total, sums


@torch.no_grad()
def diagnostics(tokens: LossTokens, found: LossTerms, reference: Reference) -> TokenSums:
    """Return what does not depend on the aggregation: counts, importance weights, divergences. In float64."""
    if tokens.policy.numel() == 0:
        return TokenSums()
    difference = tokens.policy.double() - tokens.behaviour.double()
    weights = torch.exp(tokens.proximal.double() - tokens.behaviour.double())
    same = torch.where(tokens.current, difference, 0.0).abs()
    zero = difference.new_zeros(())
    numbers = torch.stack(  # one copy to the host
        [
            found.clipped.sum(),
            reference.capped.sum(),
            reference.masked.sum(),
            weights.sum(),
            weights.square().sum(),
            # k3 of KL(mu || pi) on samples of mu: (r - 1) - log r with r = pi / mu (Schulman 2020). Never negative.
            (torch.expm1(difference) - difference).sum(),
            difference.max().exp(),
            tokens.current.sum(),
            same.sum(),
            same.max(),
            zero if tokens.reference is None else reference_kl(tokens).double().sum(),
            zero if tokens.entropy is None else tokens.entropy.double().sum(),
        ]
    ).tolist()
    return TokenSums(
        tokens=tokens.policy.numel(),
        clipped=int(numbers[0]),
        capped=int(numbers[1]),
        masked=int(numbers[2]),
        weight=numbers[3],
        weight_square=numbers[4],
        mismatch_kl=numbers[5],
        ratio_max=numbers[6],
        same_version_tokens=int(numbers[7]),
        same_version_diff=numbers[8],
        same_version_diff_max=numbers[9],
        reference_kl=numbers[10],
        reference_tokens=0 if tokens.reference is None else tokens.policy.numel(),
        entropy=numbers[11],
        entropy_tokens=0 if tokens.entropy is None else tokens.policy.numel(),
    )
