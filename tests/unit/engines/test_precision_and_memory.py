"""`learner.mixed_precision` and `learner.gradient_checkpointing` reach the trainer's own forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

pytestmark = pytest.mark.torch


def _pair_of_responses() -> TrainGroup:
    rng = np.random.default_rng(5)
    return TrainGroup(
        group_id=0,
        prompt_id="p",
        step=0,
        prompt_tokens=rng.integers(4, 200, 7).astype(np.int32),
        candidate_ids=(candidate_id(0, 0), candidate_id(0, 1)),
        lengths=np.array([20, 9], dtype=np.int32),
        response_tokens=rng.integers(4, 200, 29).astype(np.int32),
        behaviour_logprobs=np.full(29, -5.0, dtype=np.float32),
        version_spans=((VersionSpan(0, 0),),) * 2,
        rewards=np.array([1, 0], dtype=np.float32),
        baseline_rewards=np.array([1, 0], dtype=np.float32),
        baseline_lengths=np.array([20, 9], dtype=np.int32),
        capped=(False, False),
    )


def _trained(**learner: Any) -> tuple[Any, list[Any]]:
    from darts_async.engines.trainer import load_trainer

    trainer = load_trainer(Config.model_validate({"learner": {"advantage": "dr_grpo", "threads": 1, **learner}}))
    calls: list[str] = []
    trainer._model.model.layers[0].mlp.register_forward_pre_hook(lambda _, inputs: calls.append(str(inputs[0].dtype)))
    trainer.accumulate([_pair_of_responses()])
    return trainer.gradients, calls


@pytest.fixture(autouse=True)
def _no_precision_yet() -> Iterator[None]:
    """accelerate keeps one mixed precision a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("packing", ["bucketed", "padding_free"])
def test_both_change_what_they_say_and_no_more(packing: str) -> None:
    import torch
    from accelerate.state import AcceleratorState

    plain, calls = _trained(packing=packing)
    checkpointed, calls_again = _trained(packing=packing, gradient_checkpointing=True)
    assert len(calls_again) == 2 * len(calls)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(checkpointed, plain, strict=True))
    AcceleratorState._reset_state()
    rounded, _ = _trained(packing=packing, mixed_precision="bf16", gradient_checkpointing=True)
    for mine, theirs in zip(rounded, plain, strict=True):
        assert mine.dtype == torch.float32
        assert 1e-4 < float((mine - theirs).norm() / theirs.norm()) < 0.1
