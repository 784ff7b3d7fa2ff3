"""Corrections by token weights `w = pi_prox / mu`. The ratio's old policy becomes the proximal one.

The proximal policy is the one at the start of the step. Where a step makes one update, all its gradients are taken at
the weights it starts from, so pi_prox is pi itself, without gradient: exact, and no second forward pass. The ratio is
then 1 (the clip never acts), and a token's gradient is `-w A grad log pi` with the weight as each function cuts it.
Weighting the clipped ratio pi / mu as well would count pi / mu twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from darts_async.engines.loss_terms import CorrectionTerms

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_tokens import LossTokens


def tis(tokens: LossTokens, settings: LearnerSection) -> CorrectionTerms:
    """Token weights `min(w, tis_cap)`. [T]

    Sources: truncated weights, V-trace (arXiv 1802.01561); for engine and learner mismatch, Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training". There the old policy of the ratio is the
    learner's recomputed one, as here.
    """
    weights = torch.exp(tokens.proximal - tokens.behaviour)
    return CorrectionTerms(
        weights.clamp(max=settings.tis_cap), weights > settings.tis_cap, torch.zeros_like(weights, dtype=torch.bool)
    )


def decoupled_ppo(tokens: LossTokens, settings: LearnerSection) -> CorrectionTerms:  # noqa: ARG001 - registry
    """Token weights as they are: unbiased, and of unbounded variance. [T]

    Sources: "Batch size-invariance for policy optimization" (arXiv 2110.00641); AReaL (arXiv 2505.24298). Both
    take any recent policy as the proximal one; here it is always the policy at the step's start.
    """
    weights = torch.exp(tokens.proximal - tokens.behaviour)
    off = torch.zeros_like(weights, dtype=torch.bool)
    return CorrectionTerms(weights, off, off)


def icepop(tokens: LossTokens, settings: LearnerSection) -> CorrectionTerms:
    """Token weights w inside `icepop_low <= w <= icepop_high`; tokens outside are left out. [T]

    Source: IcePop, Ling team 2025 (Ring-1T report, arXiv 2510.18855), with its bounds 0.5 and 5.
    """
    weights = torch.exp(tokens.proximal - tokens.behaviour)
    masked = (weights < settings.icepop_low) | (weights > settings.icepop_high)
    return CorrectionTerms(weights, torch.zeros_like(masked), masked)
