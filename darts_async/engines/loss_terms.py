"""What corrections hand to losses, and what losses hand to the objective: per-token tensors, nothing averaged.

Invariant: the off-policyness of a token is corrected once. A clipped ratio pi / mu is itself the importance weight; a
correction that gives weights pi_prox / mu therefore moves the ratio's old policy from mu to the proximal one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_tokens import LossTokens

__all__ = ["Correction", "CorrectionTerms", "Loss", "LossTerms", "Reference"]


@dataclass(frozen=True, slots=True)
class CorrectionTerms:
    """What one correction says of each token. All [T] without gradient."""

    weights: torch.Tensor
    """Factor on the token's loss."""
    capped: torch.Tensor
    """bool: the weight was truncated."""
    masked: torch.Tensor
    """bool: the token is left out of the loss (its weight does not matter)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What all corrections together hand to a loss. All [T] without gradient."""

    old_logprobs: torch.Tensor
    """Log-probs of the policy in the ratio's denominator: the proximal or the behaviour policy."""
    weights: torch.Tensor
    """Factor on each token's loss, 0 where masked. The objective multiplies by it, not the loss."""
    capped: torch.Tensor
    """bool: a weight was truncated."""
    masked: torch.Tensor
    """bool: left out of the loss by at least one correction."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """What a loss returns, per token. [T]"""

    losses: torch.Tensor
    """With gradient."""
    clipped: torch.Tensor
    """bool: a bound of the loss acted on this token (took its gradient away, or cut its weight)."""


Correction: TypeAlias = Callable[["LossTokens", "LearnerSection"], CorrectionTerms]
Loss: TypeAlias = Callable[["LossTokens", Reference, "LearnerSection"], LossTerms]
