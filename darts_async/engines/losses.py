"""Token-level losses and off-policy corrections, in float32, on the loss tokens alone.

Three policies can appear in a loss: the *behaviour* policy mu that sampled a token (its log-prob came with the
trajectory), the *policy* pi that is being updated, and a *proximal* policy, the one that the trust region is around.
A correction decides which of them is the old policy of the ratio and what weight a token gets; a loss does the rest.
Invariant: the off-policyness of a token is corrected once. A clipped ratio pi / mu is itself the importance weight, so
`none` adds no other; `tis` takes the weight out of the ratio (whose old policy becomes the proximal one).

Nothing here averages: results are sums, so that any split of a step into micro-batches gives the same gradient.
A log-prob difference that is not finite makes the token's loss NaN instead of a capped, plausible number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, slots=True)
class Reference:
    """What a correction hands to a loss. All [T] without gradient."""

    old_logprobs: Tensor
    """Log-probs of the policy in the ratio's denominator."""
    weights: Tensor
    """Factor on each token's loss."""
    capped: Tensor
    """bool: the weight was truncated."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """What a loss returns, per token. [T]"""

    losses: Tensor
    clipped: Tensor
    """bool: the clip took this token's gradient away."""


Correction: TypeAlias = Callable[[Tensor, Tensor, "LearnerSection"], Reference]
Loss: TypeAlias = Callable[[Tensor, Reference, Tensor, "LearnerSection"], LossTerms]


def token_logprobs(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return log-probs of `targets` [T] under `logits` [T, vocab] at the sampling temperature, as float32 [T].

    Gather minus logsumexp: no [T, vocab] log-softmax is kept, and only response positions should be passed in.
    """
    scaled = logits.float() / temperature
    chosen = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(scaled, dim=-1)


def no_correction(policy: Tensor, behaviour: Tensor, settings: LearnerSection) -> Reference:  # noqa: ARG001 - registry
    """Two policies ("bypass"): the ratio is pi / mu and the clip is a trust region around mu.

    Source: PPO (arXiv 1707.06347) with the engine's log-probs as the old ones, GRPO's and DAPO's form.
    """
    return Reference(behaviour, torch.ones_like(policy), torch.zeros_like(policy, dtype=torch.bool))


def truncated_importance_sampling(policy: Tensor, behaviour: Tensor, settings: LearnerSection) -> Reference:
    """Three policies: the ratio is pi / pi_prox and each token is weighted by `min(pi_prox / mu, cap)`.

    The proximal policy is the one at the start of the step. A step makes one update and all its gradients are taken
    at the weights it starts from, so pi_prox is pi itself, without gradient: exact, and no second forward pass. The
    ratio is then 1 (the clip never acts; the cap is what bounds an update) and a token's gradient is
    `-min(pi / mu, cap) * A * grad log pi`. Weighting the clipped ratio pi / mu as well would count pi / mu twice.

    Sources: truncated weights, V-trace (arXiv 1802.01561); for engine and learner mismatch, Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training"; decoupled PPO, arXiv 2110.00641, and AReaL,
    arXiv 2505.24298.
    """
    weights = torch.exp(policy - behaviour)
    return Reference(policy, weights.clamp(max=settings.tis_cap), weights > settings.tis_cap)


def ppo_clip(
    policy: Tensor, old: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float = math.inf
) -> LossTerms:
    """Return `-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)` with `r = exp(policy - old)`. All [T].

    Source: PPO (arXiv 1707.06347); separate bounds ("clip-higher") from DAPO (arXiv 2503.14476), defaults 0.2 and
    0.28. `dual_clip` c > 1 also bounds the loss of negative advantages by `-c A` (arXiv 1912.09729; 3 to 10 in use);
    infinite, the default, is off.
    """
    ratio = torch.exp(policy - old)
    free = ratio * advantages
    objective = torch.minimum(free, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    clipped = ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))
    if math.isfinite(dual_clip):
        bounded = (advantages < 0) & (ratio > dual_clip)
        objective = torch.where(bounded, dual_clip * advantages, objective)
        clipped = clipped | bounded
    return LossTerms(-objective, clipped)


def _ppo_clip(policy: Tensor, reference: Reference, advantages: Tensor, settings: LearnerSection) -> LossTerms:
    terms = ppo_clip(
        policy, reference.old_logprobs, advantages, clip_low=settings.clip_low, clip_high=settings.clip_high
    )
    return LossTerms(reference.weights * terms.losses, terms.clipped)


CORRECTIONS: dict[str, Correction] = {"none": no_correction, "tis": truncated_importance_sampling}
"""By the name that `learner.correction` takes."""

LOSSES: dict[str, Loss] = {"ppo_clip": _ppo_clip}
"""By the name that `learner.loss` takes."""
