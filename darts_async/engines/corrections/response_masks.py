"""Corrections that leave whole responses out, by the ratios `w = pi_prox / mu` of their tokens. They give no weight.

Alone, they leave mu as the old policy of the loss's ratio. All sums are taken of logarithms: a product of ratios over
a long response overflows. A ratio that is NaN lies inside all bounds, so that its token's loss is NaN, not left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from darts_async.engines.loss_terms import CorrectionTerms

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_tokens import LossTokens


def sequence_mask(tokens: LossTokens, settings: LearnerSection) -> CorrectionTerms:
    """Leave out responses whose product of ratios is outside `sequence_mask_low..sequence_mask_high`. [T]

    Source: masked importance sampling by sequence, Liu et al. 2025, "When speed kills stability: demystifying RL
    collapse from the training-inference mismatch". Here it only masks; what is left gets no sequence weight. The
    product of a long response leaves any bound sooner than that of a short one: this favours short responses.
    """
    total = tokens.per_response(tokens.proximal - tokens.behaviour)
    return _outside(tokens, total, settings.sequence_mask_low, settings.sequence_mask_high)


def geometric_mask(tokens: LossTokens, settings: LearnerSection) -> CorrectionTerms:
    """Leave out responses whose geometric mean of ratios is outside `geometric_mask_low..geometric_mask_high`. [T]

    The length-normalised form of `sequence_mask`, as verl's rollout correction has it ("geometric" rejection). The
    bounds 0.99 and 1.01, its usual ones, are narrow because a mean of logarithms is a KL estimate, not a product.
    """
    mean = tokens.per_response(tokens.proximal - tokens.behaviour) / tokens.lengths
    return _outside(tokens, mean, settings.geometric_mask_low, settings.geometric_mask_high)


def outlier_veto(tokens: LossTokens, settings: LearnerSection) -> CorrectionTerms:
    """Leave out responses with a token whose ratio is below `veto_ratio`: the policy finds it all but impossible. [T]

    As verl's rollout correction has it ("token veto"), with its usual value 1e-4.
    """
    outlier = (tokens.proximal - tokens.behaviour) < math.log(settings.veto_ratio)
    return _leave_out(tokens, tokens.per_response(outlier.to(tokens.proximal.dtype)) > 0)


def _outside(tokens: LossTokens, logs: torch.Tensor, low: float, high: float) -> CorrectionTerms:
    """Leave out the responses whose logarithm of a ratio [S] is outside the bounds; a `low` of 0 is none."""
    floor = math.log(low) if low > 0 else -math.inf
    return _leave_out(tokens, (logs < floor) | (logs > math.log(high)))


def _leave_out(tokens: LossTokens, responses: torch.Tensor) -> CorrectionTerms:
    masked = tokens.to_tokens(responses)
    return CorrectionTerms(torch.ones_like(tokens.behaviour), torch.zeros_like(masked), masked)
