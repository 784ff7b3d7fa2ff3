"""The learner's forward and backward pass on an accelerator, in bfloat16, beside float32 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

pytestmark = [pytest.mark.gpu, pytest.mark.torch]


@pytest.fixture(autouse=True)
def _no_precision_on_gpu_yet() -> Iterator[None]:
    """accelerate keeps one mixed precision a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def _gpu_groups() -> list[TrainGroup]:
    made = []
    for number in range(4):
        rng = np.random.default_rng(number)
        lengths = rng.integers(1, 80, 4).astype(np.int32)
        total = int(lengths.sum())
        rewards = np.array([1, 0, 0, 1], dtype=np.float32)
        made.append(
            TrainGroup(
                group_id=number,
                prompt_id=f"p{number}",
                step=0,
                prompt_tokens=rng.integers(4, 200, 9).astype(np.int32),
                candidate_ids=tuple(candidate_id(number, index) for index in range(4)),
                lengths=lengths,
                response_tokens=rng.integers(4, 200, total).astype(np.int32),
                behaviour_logprobs=np.full(total, -5.0, dtype=np.float32),
                version_spans=((VersionSpan(0, 0),),) * 4,
                rewards=rewards,
                baseline_rewards=rewards,
                baseline_lengths=lengths,
                capped=(False,) * 4,
            )
        )
    return made


def _bare_gradient(groups: list[TrainGroup]) -> list[Any]:
    """Float32 on the CPU: each response by itself through the bare model, a full log-softmax, -A log pi."""
    import torch

    from darts_async.config.paths import QUICKSTART_POLICY
    from darts_async.engines.policy_model import load_model

    model = load_model(QUICKSTART_POLICY, Config())
    total = 0.0
    for group in groups:
        ends = np.cumsum(group.lengths)
        for index, (end, length) in enumerate(zip(ends, group.lengths, strict=True)):
            ids = torch.from_numpy(
                np.concatenate([group.prompt_tokens, group.response_tokens[end - length : end]]).astype(np.int64)
            )
            logits = model(input_ids=ids[None]).logits[0, group.prompt_tokens.size - 1 : -1]
            logs = torch.log_softmax(logits, dim=-1)[torch.arange(length), ids[group.prompt_tokens.size :]]
            weights = torch.exp(logs + 5.0).clamp(max=2.0).detach()
            total = total - (weights * (float(group.rewards[index]) - 0.5) * logs).sum()
    return list(torch.autograd.grad(total, list(model.parameters())))


@pytest.mark.parametrize("packing", ["bucketed", "padding_free"])
@pytest.mark.parametrize(
    ("dtype", "mixed", "bound"), [("float32", "no", 1e-2), ("float32", "bf16", 0.1), ("bfloat16", "no", 0.1)]
)
def test_gradient_on_the_gpu_is_that_of_the_cpu(packing: str, dtype: str, mixed: str, bound: float) -> None:
    """In the norm, tensor by tensor; float32 products may be TF32, bfloat16 keeps 8 bits of every activation."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    from darts_async.engines.trainer import load_trainer

    learner = {
        "packing": packing,
        "mixed_precision": mixed,
        "advantage": "dr_grpo",
        "correction": "tis",
        "micro_batch_tokens": 400,
        "logprob_chunk_tokens": 64,
    }
    trainer = load_trainer(Config.model_validate({"model": {"dtype": dtype}, "learner": learner}))
    groups = _gpu_groups()
    assert trainer.accumulate(groups).micro_batches > 1
    for want, got in zip(_bare_gradient(groups), trainer.gradients, strict=True):
        assert got.is_cuda and got.dtype == torch.float32
        assert float((got.cpu() - want).norm() / want.norm()) < bound
