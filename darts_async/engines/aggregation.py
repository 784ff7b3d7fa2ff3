"""How token losses become the loss of a step: a weight for each token, and a denominator that adds up.

The step's loss is `sum_t weight_t loss_t / sum of denominators`, both sums over all micro-batches. Weights and
denominators of a response depend on that response alone, so any split of a step gives the same gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.loss_tokens import LossTokens

__all__ = ["denominator", "weighted_sum"]


def weighted_sum(losses: torch.Tensor, tokens: LossTokens, config: Config) -> torch.Tensor:
    """Return the numerator, a scalar with gradient. losses: [T].

    `sequence` weighs a token by 1 / length of its response (GRPO, arXiv 2402.03300, equation 3); the others by 1.
    """
    if config.learner.aggregation == "sequence":
        return (losses / tokens.to_tokens(tokens.lengths)).sum()
    return losses.sum()


def denominator(tokens: LossTokens, config: Config) -> float:
    """Return what these tokens add to the denominator, those that a correction masks included.

    `token`: their number (DAPO, arXiv 2503.14476, section 3.3, over the whole step instead of a micro-batch).
    `sequence`: the number of responses. `dr_grpo`: responses times `model.max_response_tokens`, the constant that
    Dr. GRPO (arXiv 2503.20783) replaces lengths by.
    """
    match config.learner.aggregation:
        case "token":
            return float(tokens.policy.numel())
        case "sequence":
            return float(tokens.num_responses)
        case "dr_grpo":
            return float(tokens.num_responses * config.model.max_response_tokens)
