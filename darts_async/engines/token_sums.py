"""Sums over the loss tokens of a step: what micro-batches add up, and the means that a step reports. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self


@dataclass(slots=True)
class TokenSums:
    """Additive diagnostics. Sums over tokens unless the name says `max`; `+=` joins two disjoint sets of tokens."""

    loss: float = 0.0
    tokens: int = 0
    """Tokens in the loss."""
    denominator: float = 0.0
    """What the step's loss is divided by (`learner.aggregation`)."""
    clipped: int = 0
    capped: int = 0
    """Tokens whose importance weight was truncated."""
    mismatch_kl: float = 0.0
    """k3 estimate of KL(behaviour || policy)."""
    ratio_max: float = 0.0
    """Largest pi / mu."""
    same_version_tokens: int = 0
    """Tokens of responses that only the version that is being updated has sampled."""
    same_version_diff: float = 0.0
    """|log-prob of the learner - log-prob of the engine| over those."""
    same_version_diff_max: float = 0.0
    micro_batches: int = 0
    padded_tokens: int = 0
    """Tokens that went through the model, prompts and padding included."""

    def __iadd__(self, other: TokenSums) -> Self:
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, max(mine, theirs) if field.name.endswith("_max") else mine + theirs)
        return self

    def metrics(self) -> dict[str, float]:
        """Means by metric name. Without tokens of the same version its differences are left out, not reported as 0."""
        per_token = 1.0 / max(self.tokens, 1)
        values = {
            "learner/loss": self.loss / max(self.denominator, 1e-9),
            "learner/tokens": float(self.tokens),
            "learner/clip_fraction": self.clipped * per_token,
            "learner/tis_capped_fraction": self.capped * per_token,
            "learner/ratio_max": self.ratio_max,
            "learner/padded_tokens": float(self.padded_tokens),
            "mismatch_kl": self.mismatch_kl * per_token,
        }
        if self.same_version_tokens:
            values["learner/logprob_diff_mean"] = self.same_version_diff / self.same_version_tokens
            values["learner/logprob_diff_max"] = self.same_version_diff_max
        return values
