"""CISPO: the importance weight is clipped, the gradient of no token is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from darts_async.engines.loss_terms import LossTerms

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_terms import Reference
    from darts_async.engines.loss_tokens import LossTokens


def cispo(tokens: LossTokens, reference: Reference, settings: LearnerSection) -> LossTerms:
    """Return `-sg(min(r, 1 + cispo_clip_high)) A log pi` with `r = pi / pi_old`, a token. [T]

    Source: MiniMax-M1 (arXiv 2506.13585), section 3.1. As in its experiments there is no lower
    bound. Its value is no estimate of anything (only its gradient is), so `learner/loss` does not compare with others.
    """
    ratio = torch.exp((tokens.policy - reference.old_logprobs).detach())
    bound = 1 + settings.cispo_clip_high
    return LossTerms(-ratio.clamp(max=bound) * tokens.advantages * tokens.policy, ratio > bound)
