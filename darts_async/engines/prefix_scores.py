"""Log-probs of a response that still grows, under a frozen policy, with the keys and values of its prefix kept.

Invariant: whatever the chunks, the log-probs are those of one full forward pass over prompt and response (to rounding).
The boundary between two chunks needs no special case because the last token known is never fed: it becomes the first
input of the next chunk, and its logits predict that chunk's first token. No logits and no hidden state are kept.

At most `learner.logprob_chunk_tokens` positions have logits at a time. Blocking; all calls on one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from darts_async.engines.fused_logprobs import scores_of_logits

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = ["PrefixScorer", "ScoredPrefix"]

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layers whose whole past is keys and values. A recurrent state cannot be joined and split like them."""


@dataclass(slots=True)
class ScoredPrefix:
    """What one policy has seen and said of one response."""

    num_fed: int = 0
    """Tokens that the cache holds, prompt included."""
    logprobs: list[npt.NDArray[np.float32]] = field(default_factory=list)
    """In order; together of the response's first `num_scored` tokens."""
    cache: DynamicCache | None = None

    @property
    def num_scored(self) -> int:
        """Response tokens with a log-prob."""
        return sum(part.size for part in self.logprobs)

    @property
    def nbytes(self) -> int:
        """What the cache occupies."""
        return 0 if self.cache is None else cache_bytes(self.cache)


class PrefixScorer:
    """Scores with one causal language model that somebody else has loaded and placed."""

    def __init__(self, model: Any, config: Config, device: torch.device | str = "cpu") -> None:
        """`device`: where the model takes its inputs."""
        self._model = model
        self._device = device
        self._temperature = config.sampling.temperature
        self._chunk = config.learner.logprob_chunk_tokens
        layers = getattr(model.config, "layer_types", None) or ["full_attention"]
        self.can_cache = set(layers) <= _ATTENTION_LAYERS
        """Whether the past of the model is keys and values alone."""
        self.token_bytes = self._measure() if self.can_cache else 0
        """Bytes of keys and values that a token takes."""

    def extend(
        self, prefixes: Sequence[ScoredPrefix], sequences: Sequence[npt.NDArray[np.int32]], prompts: Sequence[int]
    ) -> None:
        """Score the tokens that are new in each sequence (prompt and response so far), as one batch.

        Each sequence has at least one token more than its prefix has seen. `prompts`: the length of each one's prompt,
        at least 1. Pasts of different lengths are padded on the left, new tokens on the right, and masked.
        """
        fed = [prefix.num_fed for prefix in prefixes]
        new = [sequence.size - 1 - start for sequence, start in zip(sequences, fed, strict=True)]
        if min(new) < 1:
            raise ValueError("nothing is new")
        rows, past, width = len(prefixes), max(fed), max(new)
        inputs = np.zeros((rows, width), dtype=np.int64)
        targets = np.zeros((rows, width), dtype=np.int64)
        mask = np.zeros((rows, past + width), dtype=np.int64)
        for row, (sequence, start, num) in enumerate(zip(sequences, fed, new, strict=True)):
            inputs[row, :num] = sequence[start:-1]
            targets[row, :num] = sequence[start + 1 :]
            mask[row, past - start : past + num] = 1
        # The first new input of each row whose logits predict a token of its response.
        skip = [max(prompt - 1 - start, 0) for prompt, start in zip(prompts, fed, strict=True)]
        cache = _join([prefix.cache for prefix in prefixes], past)
        scored = self._forward(cache, inputs, targets, None if mask.all() else mask, np.array(fed), min(skip))
        parts = _split(cache, [slice(past - start, past + num) for start, num in zip(fed, new, strict=True)])
        for row, (prefix, part) in enumerate(zip(prefixes, parts, strict=True)):
            prefix.logprobs.append(scored[row, skip[row] - min(skip) : new[row] - min(skip)].copy())
            prefix.num_fed = fed[row] + new[row]
            prefix.cache = part

    def _forward(
        self,
        cache: DynamicCache,
        inputs: npt.NDArray[np.int64],
        targets: npt.NDArray[np.int64],
        mask: npt.NDArray[np.int64] | None,
        fed: npt.NDArray[np.int64],
        skip: int,
    ) -> npt.NDArray[np.float32]:
        """Feed inputs [rows, width] in slices; return the log-probs of the targets from column `skip` on."""
        rows, width = inputs.shape
        past = int(fed.max())
        step = max(1, self._chunk // rows)
        ids, wanted = self._tensor(inputs), self._tensor(targets)
        visible = None if mask is None else self._tensor(mask)
        positions = self._tensor(fed[:, None] + np.arange(width))
        parts: list[torch.Tensor] = []
        with torch.no_grad():
            for first in range(0, width, step):
                last = min(first + step, width)
                kept = last - max(first, skip)  # not positive: nothing but prompt
                logits = self._model(
                    input_ids=ids[:, first:last],
                    attention_mask=None if visible is None else visible[:, : past + last],
                    position_ids=positions[:, first:last],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=max(kept, 1),
                ).logits
                if kept > 0:
                    chosen = logits.reshape(-1, logits.shape[-1])
                    of_slice = wanted[:, last - kept : last].reshape(-1)
                    logprobs, _ = scores_of_logits(chosen, of_slice, self._temperature, entropy=False)
                    parts.append(logprobs.reshape(rows, kept))
        scored: npt.NDArray[np.float32] = torch.cat(parts, dim=1).float().cpu().numpy()
        return scored

    def _tensor(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _measure(self) -> int:
        prefix = ScoredPrefix()
        self.extend([prefix], [np.zeros(2, dtype=np.int32)], [1])
        return prefix.nbytes


def cache_bytes(cache: DynamicCache) -> int:
    """Return the size of a cache's keys and values."""
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers if layer.is_initialized)


def _join(caches: Sequence[DynamicCache | None], past: int) -> DynamicCache:
    """Stack caches along the batch, padded on the left to `past` tokens. A single one is used in place."""
    if len(caches) == 1:
        return DynamicCache() if caches[0] is None else caches[0]
    known = next((cache for cache in caches if cache is not None), None)
    if known is None:
        return DynamicCache()
    pairs = []
    for index, layer in enumerate(known.layers):
        _, heads, _, size = layer.keys.shape
        keys = layer.keys.new_zeros((len(caches), heads, past, size))
        values = layer.values.new_zeros((len(caches), heads, past, layer.values.shape[-1]))
        for row, cache in enumerate(caches):
            if cache is not None:
                own = cache.layers[index]
                keys[row, :, past - own.keys.shape[-2] :] = own.keys[0]
                values[row, :, past - own.values.shape[-2] :] = own.values[0]
        pairs.append((keys, values))
    return DynamicCache(pairs)


def _split(cache: DynamicCache, real: Sequence[slice]) -> list[DynamicCache]:
    """The inverse of `_join`: each row's real tokens. The parts own their memory: each can be freed by itself."""
    if len(real) == 1:
        return [cache]
    return [
        DynamicCache(
            [(layer.keys[row : row + 1, :, tokens], layer.values[row : row + 1, :, tokens]) for layer in cache.layers]
        )
        for row, tokens in enumerate(real)
    ]
