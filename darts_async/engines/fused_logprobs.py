"""Log-probs of sampled tokens straight from hidden states: a linear layer, a log-softmax and a gather in one.

The logits of a vocabulary are far larger than what is wanted of them (one number a token), and autograd would keep them
and two or three copies until the backward pass. Here they exist for a chunk of tokens at a time, forward and backward:
the backward pass computes them again, which is one matrix product more (four in the place of three).

Invariant: for any chunk size the results are those of the plain formula, to rounding: log-probs, entropy and the
gradients of hidden states, weight and bias. Everything after the matrix products is in float32 or wider.
Same idea as Liger Kernel's fused linear cross-entropy (arXiv 2410.10989) and Cut Cross-Entropy (arXiv 2411.09009); they
take a mean of cross-entropies and make its gradient in the forward pass, while an RL loss is any function of the
log-probs, so that its gradient comes only with the backward pass. No Triton, so that it runs on a CPU as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["fused_logprobs", "scores_of_logits"]


def scores_of_logits(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float, *, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """From logits [T, vocab], return log-probs of `targets` [T] and, if asked for, entropies in nats [T].

    Plain autograd; float32 or wider (float64 stays float64).
    """
    scaled = logits.to(_wide(logits.dtype)) / temperature
    normaliser = torch.logsumexp(scaled, dim=-1)
    logprobs = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    if not entropy:
        return logprobs, None
    probabilities = torch.exp(scaled - normaliser.unsqueeze(-1))
    return logprobs, normaliser - (probabilities * scaled).sum(dim=-1)


def fused_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `scores_of_logits(hidden @ weight.T + bias, ...)` with `chunk_tokens` rows of logits in memory at a time.

    `hidden` [T, H], `weight` [vocab, H], `bias` [vocab] or None, `targets` int64 [T]. The matrix products run in the
    autocast type where autocast is on, else in the type of `hidden`.
    """
    device = hidden.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    apply: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = _FusedLogprobs.apply
    return apply(hidden, weight, bias, targets, temperature, chunk_tokens, entropy, compute)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _scaled_logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """Logits over the temperature, wide, in one buffer where the types allow it. [t, H] -> [t, vocab]"""
    logits = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias)
    return logits.to(_wide(logits.dtype)).div_(temperature)


class _FusedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_tokens: int,
        entropy: bool,
        compute: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        num_tokens, wide = targets.numel(), _wide(compute)
        logprobs = hidden.new_empty(num_tokens, dtype=wide)
        normalisers = torch.empty_like(logprobs)
        entropies = torch.empty_like(logprobs) if entropy else None
        cast, cast_bias = weight.to(compute), None if bias is None else bias.to(compute)
        for start in range(0, num_tokens, chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            scaled = _scaled_logits(hidden[rows], cast, cast_bias, temperature)
            normalisers[rows] = torch.logsumexp(scaled, dim=-1)
            logprobs[rows] = scaled.gather(-1, targets[rows].unsqueeze(-1)).squeeze(-1) - normalisers[rows]
            if entropies is not None:
                probabilities = torch.exp(scaled - normalisers[rows].unsqueeze(-1))
                entropies[rows] = normalisers[rows] - scaled.mul_(probabilities).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers, entropies)
        ctx.temperature, ctx.chunk_tokens, ctx.compute = temperature, chunk_tokens, compute
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logprobs: torch.Tensor, of_entropies: torch.Tensor | None) -> tuple[Any, ...]:
        """With p the softmax z the scaled logits: d logprob / dz = onehot - p, d H / dz = -p (log p + H)."""
        hidden, weight, bias, targets, normalisers, entropies = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        cast, cast_bias = weight.to(ctx.compute), None if bias is None else bias.to(ctx.compute)
        wide = _wide(ctx.compute)
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_weight else None
        of_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if wants_bias else None
        for start in range(0, targets.numel(), ctx.chunk_tokens):
            rows = slice(start, start + ctx.chunk_tokens)
            part = hidden[rows].to(ctx.compute)
            log_p = _scaled_logits(part, cast, cast_bias, ctx.temperature).sub_(normalisers[rows].unsqueeze(-1))
            direct = of_logprobs[rows].unsqueeze(-1)
            if of_entropies is None or entropies is None:
                of_scaled = log_p.exp_().mul_(-direct)
            else:
                p = log_p.exp()
                through_entropy = log_p.add_(entropies[rows].unsqueeze(-1)).mul_(of_entropies[rows].unsqueeze(-1))
                of_scaled = through_entropy.add_(direct).mul_(p).neg_()
            of_scaled.scatter_add_(-1, targets[rows].unsqueeze(-1), direct)
            of_scaled.div_(ctx.temperature)
            if of_bias is not None:
                of_bias += of_scaled.sum(dim=0)
            of_logits = of_scaled.to(ctx.compute)
            if of_hidden is not None:
                of_hidden[rows] = (of_logits @ cast).to(hidden.dtype)
            if of_weight is not None and wide == ctx.compute:
                of_weight.addmm_(of_logits.t(), part)
            elif of_weight is not None:
                of_weight += of_logits.t() @ part
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            *(None for _ in range(5)),
        )
