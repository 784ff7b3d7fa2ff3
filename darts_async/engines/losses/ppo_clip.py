"""PPO's clipped objective on token ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from darts_async.engines.loss_terms import LossTerms

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.loss_terms import Reference
    from darts_async.engines.loss_tokens import LossTokens


def ppo_clip(tokens: LossTokens, reference: Reference, settings: LearnerSection) -> LossTerms:
    """Return `-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)` with `r = pi / pi_old`, a token. [T]

    Source: PPO (arXiv 1707.06347), equation 7; two bounds ("clip-higher") from DAPO (arXiv 2503.14476), section 3.1,
    with its values 0.2 and 0.28. `dual_clip` c > 1 also bounds the loss of negative advantages by `-c A` (Ye et al.,
    arXiv 1912.09729; 3 to 10 in use); unset, it is off.
    """
    advantages = tokens.advantages
    low, high, bound = settings.clip_low, settings.clip_high, settings.dual_clip
    ratio = torch.exp(tokens.policy - reference.old_logprobs)
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    clipped = ((advantages > 0) & (ratio > 1 + high)) | ((advantages < 0) & (ratio < 1 - low))
    if bound is not None:
        bounded = (advantages < 0) & (ratio > bound)
        objective = torch.where(bounded, bound * advantages, objective)
        clipped = clipped | bounded
    return LossTerms(-objective, clipped)
