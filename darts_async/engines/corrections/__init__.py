"""The off-policy corrections: what each token's loss is weighted by, and which tokens are left out.

Several combine: weights multiply, and a token that one of them masks is masked (masks do not see each other: each
judges whole responses as they were sampled). At most one of them may give weights (`learner_rules` refuses more): two
would count pi_prox / mu twice.

A masked token keeps its place in the loss's denominator. Masking then is an importance weight of 0, and the gradient
is the sum over what is left divided by what was sampled: it shrinks when much is masked, instead of being blown up by
a handful of survivors. IcePop's paper does so; verl and slime divide by what is left. (Responses left out by
`learner.mask_truncated` are not loss tokens at all.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch

from darts_async.config.choices import WEIGHT_CORRECTIONS
from darts_async.engines.corrections.response_masks import geometric_mask, outlier_veto, sequence_mask
from darts_async.engines.corrections.token_weights import decoupled_ppo, icepop, tis
from darts_async.engines.loss_terms import Correction, CorrectionTerms, Reference

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_tokens import LossTokens

__all__ = ["CORRECTIONS", "correct", "none"]


def none(tokens: LossTokens, settings: LearnerSection) -> CorrectionTerms:  # noqa: ARG001 - registry
    """No correction: the loss's ratio is pi / mu, and its clip is a trust region around mu. [T]

    Source: GRPO and DAPO with the engine's log-probs as the old ones.
    """
    off = torch.zeros_like(tokens.behaviour, dtype=torch.bool)
    return CorrectionTerms(torch.ones_like(tokens.behaviour), off, off)


CORRECTIONS: Final[dict[str, Correction]] = {
    "none": none,
    "tis": tis,
    "decoupled_ppo": decoupled_ppo,
    "icepop": icepop,
    "sequence_mask": sequence_mask,
    "geometric_mask": geometric_mask,
    "outlier_veto": outlier_veto,
}
"""By the names that `learner.correction` takes."""


def correct(tokens: LossTokens, names: Sequence[str], settings: LearnerSection) -> Reference:
    """Combine corrections into what a loss needs. `tokens.policy` is not looked at."""
    combined = none(tokens, settings)
    weights, capped, masked = combined.weights, combined.capped, combined.masked
    for name in names:
        terms = CORRECTIONS[name](tokens, settings)
        weights, capped, masked = weights * terms.weights, capped | terms.capped, masked | terms.masked
    return Reference(
        old_logprobs=tokens.proximal if WEIGHT_CORRECTIONS.intersection(names) else tokens.behaviour,
        weights=torch.where(masked, 0.0, weights),  # also where a weight overflowed
        capped=capped & ~masked,
        masked=masked,
    )
