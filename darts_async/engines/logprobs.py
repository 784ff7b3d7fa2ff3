"""Log-probs of chosen tokens from logits."""

from __future__ import annotations

import torch

__all__ = ["token_logprobs"]


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return log-probs of `targets` [T] under `logits` [T, vocab] at the sampling temperature, as float32 [T].

    Gather minus logsumexp: no [T, vocab] log-softmax is kept, and only response positions should be passed in.
    """
    scaled = logits.float() / temperature
    chosen = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(scaled, dim=-1)
