"""Sums over the loss tokens of a step: what micro-batches add up, and the means that a step reports. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self


@dataclass(slots=True)
class TokenSums:
    """Additive diagnostics. Sums over tokens unless the name ends in `_max`; `+=` joins two disjoint sets of tokens.

    Numbers only, so that several learner processes can reduce it field by field: sums, and maxima where named so.
    """

    loss: float = 0.0
    """Weighted as `learner.aggregation` says, regularisers included."""
    tokens: int = 0
    """Tokens in the loss."""
    denominator: float = 0.0
    """What the step's loss is divided by (`learner.aggregation`)."""
    clipped: int = 0
    """Tokens that a bound of the loss acted on."""
    capped: int = 0
    """Tokens whose importance weight was truncated."""
    masked: int = 0
    """Tokens that a correction left out."""
    weight: float = 0.0
    """Importance weights pi_prox / mu, as they are before any correction."""
    weight_square: float = 0.0
    mismatch_kl: float = 0.0
    """k3 estimate of KL(behaviour || policy)."""
    ratio_max: float = 0.0
    """Largest pi / mu."""
    same_version_tokens: int = 0
    """Tokens of responses that only the version that is being updated has sampled."""
    same_version_diff: float = 0.0
    """|log-prob of the learner - log-prob of the engine| over those."""
    same_version_diff_max: float = 0.0
    reference_kl: float = 0.0
    """k3 estimate of KL(policy || reference)."""
    reference_tokens: int = 0
    """Tokens that the reference policy has scored."""
    entropy: float = 0.0
    """Nats."""
    entropy_tokens: int = 0
    """Tokens whose entropy is known."""
    micro_batches: int = 0
    padded_tokens: int = 0
    """Tokens that went through the model, prompts and padding included."""

    def __iadd__(self, other: TokenSums) -> Self:
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(mine, theirs) if field.name.endswith("_max") else mine + theirs)
        return self

    def metrics(self) -> dict[str, float]:
        """Means by metric name. What no token was measured for is left out, not reported as 0.

        `learner/ess`: effective sample size of the importance weights w as a share of the n tokens,
        `(sum w)^2 / (n sum w^2)` (Kish 1965): 1 on policy, 1/n when one token has all the weight.
        """
        per_token = 1.0 / max(self.tokens, 1)
        values = {
            "learner/loss": self.loss / max(self.denominator, 1e-9),
            "learner/tokens": float(self.tokens),
            "learner/clip_fraction": self.clipped * per_token,
            "learner/tis_capped_fraction": self.capped * per_token,
            "learner/masked_fraction": self.masked * per_token,
            "learner/ratio_max": self.ratio_max,
            "learner/padded_tokens": float(self.padded_tokens),
            "mismatch_kl": self.mismatch_kl * per_token,
        }
        if self.weight_square > 0:
            values["learner/ess"] = self.weight * self.weight / (self.tokens * self.weight_square)
        if self.reference_tokens:
            values["learner/kl_reference"] = self.reference_kl / self.reference_tokens
        if self.entropy_tokens:
            values["learner/entropy"] = self.entropy / self.entropy_tokens
        if self.same_version_tokens:
            values["learner/logprob_diff_mean"] = self.same_version_diff / self.same_version_tokens
            values["learner/logprob_diff_max"] = self.same_version_diff_max
        return values
