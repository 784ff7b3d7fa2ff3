"""What a loss sees of a micro-batch: its loss tokens, one after the other, with what each policy says of them.

Up to four policies can have an opinion of a token: the *behaviour* policy mu that sampled it (its log-prob came with
the trajectory), the *policy* pi that is being updated, the *proximal* policy that the trust region is around (pi at the
start of the step), and a frozen *reference*. All log-probs are natural logarithms at the sampling temperature, float32
or wider.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["LossTokens"]


@dataclass(frozen=True, slots=True)
class LossTokens:
    """T tokens of S responses. A response is never split over micro-batches."""

    policy: torch.Tensor
    """[T], with gradient."""
    behaviour: torch.Tensor
    """[T]."""
    proximal: torch.Tensor
    """[T], without gradient: `policy` detached where a step makes one update, else of the policy at its start."""
    advantages: torch.Tensor
    """[T]: each response's advantage, repeated."""
    responses: torch.Tensor
    """int64 [T]: which response a token belongs to, 0..S-1, non-decreasing."""
    lengths: torch.Tensor
    """int64 [S]: loss tokens of each response; all at least 1."""
    ages: torch.Tensor
    """int64 [T]: versions between the policy that the step updates and the one that sampled the token."""
    current: torch.Tensor
    """bool [T]: the token and all before it in its response were sampled by the very weights that `policy` has, so that
    policy and behaviour differ by the engine's numerics alone."""
    reference: torch.Tensor | None = None
    """[T]; None without a reference policy."""
    entropy: torch.Tensor | None = None
    """[T], with gradient: entropy of the policy's distribution; None where nobody asked for it."""

    @property
    def num_responses(self) -> int:
        """S."""
        return self.lengths.numel()

    def per_response(self, values: torch.Tensor) -> torch.Tensor:
        """Sum token values by response. [T] -> [S], with gradient."""
        return values.new_zeros(self.num_responses).index_add(0, self.responses, values)

    def to_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """Repeat a value per response for each of its tokens. [S] -> [T]."""
        return values[self.responses]
