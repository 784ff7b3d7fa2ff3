"""Group Sequence Policy Optimization: one ratio for a whole response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from darts_async.engines.loss_terms import LossTerms

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_terms import Reference
    from darts_async.engines.loss_tokens import LossTokens


def gspo(tokens: LossTokens, reference: Reference, settings: LearnerSection) -> LossTerms:
    """Return `-min(s A, clip(s, 1 - gspo_clip_low, 1 + gspo_clip_high) A)` for each token, with one s a response. [T]

    `s = (prod_t pi / pi_old)^(1 / length)`, the geometric mean of the response's token ratios. Source: GSPO (arXiv
    2507.18071), equations 5 to 7, in the token variant of its section 4.3 (equations 13, 14): a token's s is
    `sg(s) pi / sg(pi)`, so that the value is the response's and the gradient of token t is `-s A grad log pi_t`. The
    advantage is the same for all tokens here, so under `learner.aggregation = "sequence"` value and gradient are those
    of plain GSPO, `-s A / length * sum_t grad log pi_t`; `token` weighs responses by their lengths instead.

    A masked token counts in the geometric mean as one whose ratio is 1.
    """
    difference = (tokens.policy - reference.old_logprobs).detach()
    mean = tokens.per_response(difference) / tokens.lengths
    ratio = tokens.to_tokens(torch.exp(mean)) * torch.exp(tokens.policy - tokens.policy.detach())
    advantages, low, high = tokens.advantages, settings.gspo_clip_low, settings.gspo_clip_high
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    clipped = ((advantages > 0) & (ratio > 1 + high)) | ((advantages < 0) & (ratio < 1 - low))
    return LossTerms(-objective, clipped)
