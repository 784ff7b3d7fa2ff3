"""Two updates within a step against AdamW by hand, the objective written out response by response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

pytestmark = pytest.mark.torch

_LR, _DECAY = 1e-3, 0.1


def _config(updates: int) -> Config:
    learner = {
        "lr": _LR,
        "weight_decay": _DECAY,
        "max_grad_norm": 1e9,
        "advantage": "dr_grpo",
        "correction": "decoupled_ppo",
        "updates_per_step": updates,
    }
    return Config.model_validate({"group": {"groups_per_step": 4}, "learner": learner})


def _four_groups() -> list[TrainGroup]:
    rng = np.random.default_rng(5)
    groups = []
    for group_id in range(4):
        lengths = rng.integers(2, 12, 2).astype(np.int32)
        total, rewards = int(lengths.sum()), np.array([1, 0], dtype=np.float32)
        groups.append(
            TrainGroup(
                group_id=group_id,
                prompt_id=str(group_id),
                step=0,
                prompt_tokens=rng.integers(4, 200, 5).astype(np.int32),
                candidate_ids=(candidate_id(group_id, 0), candidate_id(group_id, 1)),
                lengths=lengths,
                response_tokens=rng.integers(4, 200, total).astype(np.int32),
                behaviour_logprobs=rng.normal(-6.0, 0.3, total).astype(np.float32),
                version_spans=((VersionSpan(0, 0),),) * 2,
                rewards=rewards,
                baseline_rewards=rewards,
                baseline_lengths=lengths,
                capped=(False, False),
            )
        )
    return groups


def _log_probs(model: Any, group: TrainGroup) -> list[Any]:
    import torch

    out, start = [], 0
    for length in group.lengths.tolist():
        response = group.response_tokens[start : start + length]
        start += length
        ids = torch.from_numpy(np.concatenate([group.prompt_tokens, response]).astype(np.int64))[None]
        logs = torch.log_softmax(model(input_ids=ids).logits[0, group.prompt_tokens.size - 1 : -1].float(), dim=-1)
        out.append(logs[torch.arange(length), ids[0, group.prompt_tokens.size :]])
    return out


def _by_hand(groups: list[TrainGroup]) -> Any:
    """Proximal log-probs from the start of the step for both halves; the second half sees the weights of the first."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(QUICKSTART_POLICY, dtype=torch.float32).eval()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    gains = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    assert matrices and gains
    adamw = torch.optim.AdamW([{"params": matrices, "weight_decay": _DECAY}, {"params": gains, "weight_decay": 0}], _LR)
    with torch.no_grad():
        proximal = [_log_probs(model, group) for group in groups]
    moved = 0.0
    for half in (range(2), range(2, 4)):
        losses = []
        for index in half:
            group, start = groups[index], 0
            for number, policy in enumerate(_log_probs(model, group)):
                behaviour = torch.from_numpy(group.behaviour_logprobs[start : start + policy.numel()].copy())
                start += policy.numel()
                old, advantage = proximal[index][number], (0.5, -0.5)[number]
                ratio = torch.exp(policy - old)
                moved = max(moved, float((ratio.detach() - 1).abs().max()))
                clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
                losses.append(-torch.exp(old - behaviour) * clipped)
        adamw.zero_grad()
        torch.cat(losses).mean().backward()
        adamw.step()
    assert moved > 0.05  # the second half is off-policy: a test without that would pass with any proximal policy
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_two_updates_are_two_of_adamw() -> None:
    import torch

    from darts_async.engines.trainer import PolicyTrainer

    groups = _four_groups()
    trainer = PolicyTrainer(_config(2))
    first = trainer.accumulate(groups[:1])
    second = trainer.accumulate(groups[1:])  # crosses the border between the halves
    # after the first update no token is of the weights that sampled it, though it is of the newest version
    assert first.same_version_tokens + second.same_version_tokens == sum(int(g.lengths.sum()) for g in groups[:2])
    stats = trainer.apply_step()
    assert (stats.version, stats.skipped, stats.sums.tokens) == (1, False, sum(int(g.lengths.sum()) for g in groups))
    expected = _by_hand(groups)
    got = torch.cat([parameter.detach().flatten() for parameter in trainer._model.parameters()])
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)

    one = PolicyTrainer(_config(1))
    one.accumulate(groups)
    one.apply_step()
    other = torch.cat([parameter.detach().flatten() for parameter in one._model.parameters()])
    assert float((other - expected).abs().max()) > 5e-4  # what one update for all would have made
