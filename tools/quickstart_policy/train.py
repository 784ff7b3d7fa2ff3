"""Training from nothing, seeded: arithmetic first, then the noisy teacher's full mix.

Phase 1 shows demonstrations without slips, with a curriculum on the number of operands and small batches;
phase 2 the full mix with batches twice as large. What mattered most for the speed of learning, in this
order: the initial standard deviation of 0.12 (0.02 learns far slower at this size), the curriculum, and the
labels in the prompts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Final

import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from quickstart_policy.demonstrations import Demonstration, demonstrate, demonstrate_clean
from quickstart_policy.tokenizer import ASSISTANT, END, PAD, USER

__all__ = ["build_model", "train"]

PEAK_LR: Final = 3e-3
FINAL_LR_SHARE: Final = 0.05
WARMUP_STEPS: Final = 50
CLIP_NORM: Final = 1.0
BATCH_TOKENS: Final = (1024, 2048)
CURRICULUM: Final = ((0.10, 2), (0.18, 3), (0.38, 5), (1.0, 8))
"""Until this share of phase 1, at most that many operands."""

IGNORED: Final = -100
POOL_BATCHES: Final = 24
"""Demonstrations are sorted by length within so many batches: little padding, batches shuffled."""


def build_model(tokenizer: Tokenizer, seed: int) -> Qwen3ForCausalLM:
    """A fresh Qwen3 of 0.39 M parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.12,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def train(
    model: Qwen3ForCausalLM,
    tokenizer: Tokenizer,
    tokens: int,
    seed: int,
    report: Callable[[int, float, float], None],
) -> None:
    """Train on about `tokens` tokens, half in each phase. Calls `report(seen, loss, lr)` after each step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    seen = 0
    for step, (input_ids, labels) in enumerate(_batches(tokenizer, tokens, seed)):
        progress = min(seen / tokens, 1.0)
        cosine = FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * (1 + math.cos(math.pi * progress)) / 2
        lr = PEAK_LR * min((step + 1) / WARMUP_STEPS, 1.0) * cosine
        for group in optimiser.param_groups:
            group["lr"] = lr
        # Padding is on the right, so the causal mask alone keeps it out of every token that counts.
        logits = model(input_ids=input_ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimiser.step()
        optimiser.zero_grad()
        seen += input_ids.numel()
        report(seen, loss.item(), lr)
    model.eval()


def _batches(tokenizer: Tokenizer, tokens: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of (input ids, labels), shape (rows, longest), until each phase has spent its tokens."""
    rng = random.Random(f"{seed}/train")
    for phase, batch_tokens in enumerate(BATCH_TOKENS):
        budget, spent = tokens // len(BATCH_TOKENS), 0
        while spent < budget:
            share = spent / budget
            if phase == 0:
                most = next(operands for until, operands in CURRICULUM if share < until)
                pool = _pool(rng, tokenizer, batch_tokens, lambda most=most: demonstrate_clean(rng, most))  # type: ignore[misc]
            else:
                pool = _pool(rng, tokenizer, batch_tokens, lambda: demonstrate(rng, rng.randint(2, 8)))
            for batch in pool:
                yield batch
                spent += batch[0].numel()
                if spent >= budget:
                    break


def _pool(
    rng: random.Random, tokenizer: Tokenizer, batch_tokens: int, draw: Callable[[], Demonstration]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows: list[tuple[list[int], list[int]]] = []
    drawn = 0
    while drawn < POOL_BATCHES * batch_tokens:
        rows.append(_encode(tokenizer, draw()))
        drawn += len(rows[-1][0])
    rows.sort(key=lambda row: len(row[0]))
    batches: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        if batches[-1] and (len(batches[-1]) + 1) * len(row[0]) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return [_pad(tokenizer, batch) for batch in batches]


def _encode(tokenizer: Tokenizer, demonstration: Demonstration) -> tuple[list[int], list[int]]:
    """Ids and labels; the prompt carries no loss."""
    prompt = tokenizer.encode(USER + demonstration.content + ASSISTANT).ids
    response = tokenizer.encode(demonstration.response + (END if demonstration.ended else "")).ids
    return prompt + response, [IGNORED] * len(prompt) + response


def _pad(tokenizer: Tokenizer, rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.token_to_id(PAD)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORED] * (longest - len(row)) for _, row in rows])
    return ids, labels
