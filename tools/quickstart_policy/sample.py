"""A compact batched sampler: a key-value cache, rows of one prompt length, finished rows dropped at once.

The stock generation loop keeps every row until the last one ends; with a long tail that is most of the work.
Sampling has full support (no top-p, no top-k). Seeded: the same model and seed give the same responses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

__all__ = ["sample"]


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    eos_token_ids: frozenset[int],
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> list[list[list[int]]]:
    """`samples` responses for each prompt, the end-of-text token included. Temperature 0 is greedy."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    responses: list[list[list[int]]] = [[] for _ in prompts]
    generator = torch.Generator().manual_seed(seed)
    for _, indices in sorted(by_length.items()):
        rows = [list(prompts[index]) for index in indices for _ in range(samples)]
        for row, response in enumerate(
            _decode(model, torch.tensor(rows), eos_token_ids, max_tokens, temperature, generator)
        ):
            responses[indices[row // samples]].append(response)
    return responses


def _decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    eos_token_ids: frozenset[int],
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    responses: list[list[int]] = [[] for _ in range(len(input_ids))]
    running = list(range(len(input_ids)))
    eos = torch.tensor(sorted(eos_token_ids))
    cache = DynamicCache()
    for _ in range(max_tokens):
        logits = model(input_ids=input_ids, past_key_values=cache, use_cache=True).logits[:, -1]
        if temperature > 0:
            chosen = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
        else:
            chosen = logits.argmax(-1, keepdim=True)
        for row, token in zip(running, chosen[:, 0].tolist(), strict=True):
            responses[row].append(token)
        alive = ~torch.isin(chosen[:, 0], eos)
        if not bool(alive.all()):
            keep = alive.nonzero()[:, 0]
            running = [running[i] for i in keep.tolist()]
            if not running:
                break
            cache.batch_select_indices(keep)
            chosen = chosen[keep]
        input_ids = chosen
    return responses
