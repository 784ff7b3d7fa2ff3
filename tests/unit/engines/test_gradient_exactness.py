"""Streamed gradients beside one full batch whose loss is written out here: any order, split, budget and packing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

pytestmark = pytest.mark.torch

_ORDERS = 20
_CAP = 2.0


def _groups() -> list[TrainGroup]:
    """Eight groups of four, lengths from 1 to 60 with a tail, old log-probs around those of a model of 200 words."""
    made = []
    for number in range(8):
        rng = np.random.default_rng(number)
        lengths = np.clip(np.exp(rng.normal(2.3, 0.9, 4)), 1, 60).astype(np.int32)
        total = int(lengths.sum())
        rewards = np.array(rng.permutation([1, 0, 0, rng.integers(2)]), dtype=np.float32)
        made.append(
            TrainGroup(
                group_id=number,
                prompt_id=f"p{number}",
                step=0,
                prompt_tokens=rng.integers(4, 200, rng.integers(2, 20)).astype(np.int32),
                candidate_ids=tuple(candidate_id(number, index) for index in range(4)),
                lengths=lengths,
                response_tokens=rng.integers(4, 200, total).astype(np.int32),
                behaviour_logprobs=rng.normal(-math.log(200), 0.5, total).astype(np.float32),
                version_spans=((VersionSpan(0, 0),),) * 4,
                rewards=rewards,
                baseline_rewards=rewards,
                baseline_lengths=lengths,
                capped=(False,) * 4,
            )
        )
    return made


def _full_batch(model: Any, groups: list[TrainGroup]) -> dict[str, Any]:
    """Gradients of sum -min(pi / mu, 2) A log pi: each response through the bare model by itself, one backward pass."""
    import torch

    total = 0.0
    for group in groups:
        ends = np.cumsum(group.lengths)
        for index, (end, length) in enumerate(zip(ends, group.lengths, strict=True)):
            response = group.response_tokens[end - length : end]
            old = torch.from_numpy(group.behaviour_logprobs[end - length : end])
            ids = torch.from_numpy(np.concatenate([group.prompt_tokens, response]).astype(np.int64))
            logits = model(input_ids=ids[None]).logits[0, group.prompt_tokens.size - 1 : -1]
            logprobs = torch.log_softmax(logits, dim=-1)[torch.arange(length), ids[group.prompt_tokens.size :]]
            weight = torch.exp(logprobs - old).clamp(max=_CAP).detach()
            advantage = float(group.rewards[index]) - float(group.rewards.mean())
            total = total - (weight * advantage * logprobs).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total, parameters), strict=True))


def _tiny_model(folder: Path) -> str:
    """Grouped key heads, biases, LayerNorm (no float32 inside, unlike RMSNorm), an output layer of its own."""
    import torch
    from transformers import StableLmConfig, StableLmForCausalLM

    torch.manual_seed(0)
    shape = StableLmConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        use_qkv_bias=True,
        initializer_range=0.1,
        hidden_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
    )
    StableLmForCausalLM(shape).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("policy", "dtype", "bound"),
    [("tiny", "float32", 1e-5), ("tiny", "float64", 1e-10), ("quickstart", "float32", 1e-5)],
)
def test_gradient_of_any_arrival_is_that_of_the_full_batch(
    policy: str, dtype: str, bound: float, tmp_path: Path
) -> None:
    import torch

    from darts_async.engines.trainer import load_trainer

    learner = {"advantage": "dr_grpo", "correction": "tis", "tis_cap": _CAP, "threads": 1}
    path = policy if policy == "quickstart" else _tiny_model(tmp_path)
    config = Config.model_validate({"model": {"path": path}, "learner": learner})
    groups = _groups()
    rng = np.random.default_rng(7)
    trainers = {
        packing: load_trainer(
            config.model_copy(update={"learner": config.learner.model_copy(update={"packing": packing})}),
            getattr(torch, dtype),
        )
        for packing in ("bucketed", "padding_free")
    }
    full = _full_batch(trainers["bucketed"]._model, groups)
    worst, splits = 0.0, set()
    for number in range(_ORDERS):
        trainer = trainers["padding_free" if number % 2 else "bucketed"]
        settings = trainer._config.learner.model_copy(
            update={
                "micro_batch_tokens": int(rng.choice([16, 64, 200, 1000])),
                "logprob_chunk_tokens": int(rng.choice([3, 50, 1024])),
            }
        )
        trainer._config = trainer._config.model_copy(update={"learner": settings})
        order = rng.permutation(len(groups))
        cuts = sorted(rng.choice(np.arange(1, len(groups)), rng.integers(0, 5), replace=False).tolist())
        micro = 0
        for part in np.split(order, cuts):
            micro += trainer.accumulate([groups[index] for index in part]).micro_batches
        splits.add((len(cuts), micro))
        for (name, want), got in zip(full.items(), trainer.gradients, strict=True):
            assert got.dtype == getattr(torch, dtype)
            assert float(want.abs().max()) > 1e-3, name
            worst = max(worst, float((got - want).abs().max() / want.abs().max()))
        trainer._optimiser.drop()
    assert worst < bound
    assert len(splits) > 10
