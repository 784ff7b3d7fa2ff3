"""What a trainer observes beside its update: the update is bit for bit the same, and the figures reach the metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

if TYPE_CHECKING:
    from darts_async.engines.trainer import PolicyTrainer

pytestmark = pytest.mark.torch

ALL_PAIRS = [
    {"loss": loss, "correction": correction}
    for loss in ("ppo_clip", "gspo", "cispo")
    for correction in ("none", "tis", "decoupled_ppo", "icepop", ["sequence_mask", "tis"], ["geometric_mask", "tis"])
]


def _observing_trainer(dtype: str = "float32", **learner: Any) -> PolicyTrainer:
    from darts_async.engines.trainer import load_trainer

    learner = {"lr": 1e-3, "correction": "tis", "micro_batch_tokens": 64, **learner}
    return load_trainer(Config.model_validate({"model": {"dtype": dtype}, "learner": learner}))


def _aged_group(group_id: int, *, version: int) -> TrainGroup:
    """Four responses whose second half was sampled one version later than the first."""
    rng = np.random.default_rng(group_id)
    lengths = (5, 3, 12, 8)
    rewards = np.array([1, 0, 0, 1], dtype=np.float32)
    return TrainGroup(
        group_id=group_id,
        prompt_id=f"p{group_id}",
        step=0,
        prompt_tokens=rng.integers(4, 200, 6).astype(np.int32),
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(4)),
        lengths=np.array(lengths, dtype=np.int32),
        response_tokens=rng.integers(4, 200, 28).astype(np.int32),
        behaviour_logprobs=rng.normal(-6, 1, 28).astype(np.float32),
        version_spans=tuple((VersionSpan(version, 0), VersionSpan(version + 1, n // 2)) for n in lengths),
        rewards=rewards,
        baseline_rewards=rewards,
        baseline_lengths=np.array(lengths, dtype=np.int32),
        capped=(False,) * 4,
    )


def _train(trainer: PolicyTrainer, steps: int) -> tuple[list[dict[str, float]], Any]:
    import torch

    metrics = []
    for step in range(steps):
        trainer.accumulate([_aged_group(2 * step, version=max(0, step - 1))])
        trainer.accumulate([_aged_group(2 * step + 1, version=max(0, step - 1))])
        stats = trainer.apply_step()
        assert not stats.skipped
        metrics.append(stats.observed | {"grad_norm": stats.grad_norm, "loss": stats.sums.loss})
    return metrics, torch.cat([parameter.detach().flatten() for parameter in trainer._model.parameters()])


@pytest.mark.parametrize(
    ("dtype", "learner"), [("float32", {}), ("bfloat16", {}), ("float32", {"gradient_checkpointing": True})]
)
def test_weights_are_bit_for_bit_those_without_shadows(dtype: str, learner: dict[str, Any]) -> None:
    import torch

    torch.manual_seed(5)
    state = torch.get_rng_state()
    plain, weights = _train(_observing_trainer(dtype, **learner), 3)
    shadowed, same = _train(_observing_trainer(dtype, shadow=ALL_PAIRS, shadow_every=2, **learner), 3)
    assert torch.equal(weights, same)
    assert torch.equal(state, torch.get_rng_state())
    assert [(m["grad_norm"], m["loss"]) for m in plain] == [(m["grad_norm"], m["loss"]) for m in shadowed]
    cosines = [{name: value for name, value in m.items() if name.endswith("/cosine")} for m in shadowed]
    assert [len(found) for found in cosines] == [18, 0, 18]
    assert all(m.items() <= s.items() for m, s in zip(plain, shadowed, strict=True))
    for found in (cosines[0], cosines[2]):
        assert found["shadow/ppo_clip+tis/cosine"] == pytest.approx(1, abs=1e-9 if dtype == "float32" else 1e-6)
        assert all(-1 <= value < 1 - 1e-4 for name, value in found.items() if "ppo_clip+none/" in name)


def test_curves_by_age_are_those_of_the_tokens() -> None:
    trainer = _observing_trainer(correction="none", advantage="dr_grpo", lr=0.0)
    trainer.version = 3
    group = _aged_group(0, version=1)
    halves = [n // 2 for n in group.lengths.tolist()]  # of age 2; the others are of age 1
    trainer.accumulate([group])
    metrics = trainer.apply_step().observed
    assert {name.split("/")[1] for name in metrics if name.startswith("age/")} == {"1", "2"}
    assert (metrics["age/2/tokens"], metrics["age/1/tokens"]) == (sum(halves), 28 - sum(halves))
    advantages = (0.5, -0.5, -0.5, 0.5)  # two right and two wrong responses
    expected = sum(a * half for a, half in zip(advantages, halves, strict=True)) / sum(halves)
    assert metrics["age/2/advantage"] == pytest.approx(expected, rel=1e-6)
    trainer.accumulate([group])
    assert trainer.apply_step().observed["age/3/tokens"] == sum(halves)  # a version on, and nothing of the step before


def test_a_step_without_loss_tokens_has_no_figures() -> None:
    trainer = _observing_trainer(shadow=[{"loss": "gspo"}])
    observed = trainer.apply_step().observed
    assert {name: value for name, value in observed.items() if not math.isnan(value)} == {}
