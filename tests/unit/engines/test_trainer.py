"""The trainer on the shipped tiny policy: exact gradients, skipped steps, files that others can read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.config.schema import LearnerSection
from darts_async.engines.weights_file import check_weights, model_shapes, read_shapes
from darts_async.errors import RunFailed
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

if TYPE_CHECKING:
    from darts_async.engines.trainer import PolicyTrainer

pytestmark = pytest.mark.torch


def _config(dtype: str = "float32", temperature: float = 1.0, **learner: Any) -> Config:
    return Config.model_validate(
        {
            "model": {"dtype": dtype},
            "sampling": {"temperature": temperature},
            "learner": {"lr": 1e-3, "threads": 1, "advantage": "dr_grpo", "correction": "none", **learner},
        }
    )


def _trainer(*args: Any, **learner: Any) -> PolicyTrainer:
    from darts_async.engines.trainer import load_trainer

    return load_trainer(_config(*args, **learner))


def _group(
    group_id: int,
    *,
    lengths: Sequence[int] = (5, 3, 12),
    rewards: Sequence[float] = (1, 0, 0),
    prompt: int = 6,
    capped: Sequence[bool] | None = None,
) -> TrainGroup:
    """Random tokens; the second half of each response is one policy version on."""
    rng = np.random.default_rng(group_id)
    total = sum(lengths)
    return TrainGroup(
        group_id=group_id,
        prompt_id=f"p{group_id}",
        step=0,
        prompt_tokens=rng.integers(4, 200, prompt).astype(np.int32),
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(len(lengths))),
        lengths=np.array(lengths, dtype=np.int32),
        response_tokens=rng.integers(4, 200, total).astype(np.int32),
        behaviour_logprobs=np.full(total, -2.0, dtype=np.float32),
        version_spans=tuple(
            (VersionSpan(0, 0), VersionSpan(1, n // 2)) if n > 1 else (VersionSpan(0, 0),) for n in lengths
        ),
        rewards=np.array(rewards, dtype=np.float32),
        baseline_rewards=np.array(rewards, dtype=np.float32),
        baseline_lengths=np.array(lengths, dtype=np.int32),
        capped=tuple(capped or [False] * len(lengths)),
    )


@pytest.fixture(scope="module")
def groups() -> list[TrainGroup]:
    """Groups whose behaviour log-probs lie around the policy's: ratios from about 0.4 to 2.5, both clips in reach."""
    trainer = _trainer()
    made = [
        _group(0),
        _group(1, lengths=(2, 30, 7, 1), rewards=(0, 1, 1, 0), prompt=3),
        _group(2, lengths=(9, 9), rewards=(1, 1), prompt=14),  # no variance: counts tokens, moves nothing
        _group(3, lengths=(17, 4, 21), rewards=(0, 0, 1), prompt=8),
    ]
    for group in made:
        noise = np.random.default_rng(99 + group.group_id).normal(0, 0.3, group.behaviour_logprobs.size)
        group.behaviour_logprobs[:] = np.concatenate(list(_reference_numbers(trainer, group))) + noise
    return made


def _reference_numbers(trainer: PolicyTrainer, group: TrainGroup) -> Iterator[np.ndarray]:
    for logprobs in _reference_logprobs(trainer, group, 1.0):
        yield logprobs.detach().numpy()


def _reference_logprobs(trainer: PolicyTrainer, group: TrainGroup, temperature: float) -> list[Any]:
    """Every response by itself through a plain full forward pass and a full log-softmax."""
    import torch

    out, start = [], 0
    for length in group.lengths.tolist():
        response = group.response_tokens[start : start + length]
        start += length
        ids = torch.from_numpy(np.concatenate([group.prompt_tokens, response]).astype(np.int64))[None]
        logits = trainer._model(input_ids=ids).logits[0, group.prompt_tokens.size - 1 : -1].float() / temperature
        targets = ids[0, group.prompt_tokens.size :]
        out.append(torch.log_softmax(logits, dim=-1)[torch.arange(length), targets])
    return out


def _flat(trainer: PolicyTrainer) -> Any:
    import torch

    return torch.cat([gradient.flatten() for gradient in trainer.gradients])


def _weights(trainer: PolicyTrainer) -> Any:
    import torch

    return torch.cat([parameter.detach().flatten().clone() for parameter in trainer._model.parameters()])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_a_full_forward_pass(temperature: float, groups: list[TrainGroup]) -> None:
    import torch

    from darts_async.engines.micro_batch import collate, rows_of

    trainer = _trainer("float32", temperature)
    rows = [row for g in groups for row in rows_of(g, g.rewards, mask_truncated=False)]
    got = trainer.loss_tokens(collate(rows)).policy
    expected = torch.cat([logprobs for g in groups for logprobs in _reference_logprobs(trainer, g, temperature)])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("correction", ["none", "tis"])
def test_gradients_do_not_depend_on_arrival_or_micro_batches(correction: str, groups: list[TrainGroup]) -> None:
    import torch

    trainer = _trainer(correction=correction, micro_batch_tokens=10_000)
    whole = trainer.accumulate(groups)
    assert whole.micro_batches <= 2
    full = _flat(trainer)
    assert float(full.abs().max()) > 1e-2
    for order, budget in (([3, 1, 0, 2], 16), ([2, 0, 3, 1], 64), ([0, 1, 2, 3], 200)):
        streamed = _trainer(correction=correction, micro_batch_tokens=budget)
        for index in order:
            streamed.accumulate([groups[index]])
        torch.testing.assert_close(_flat(streamed), full, atol=1e-4 * float(full.abs().max()), rtol=1e-4)
        assert streamed._sums.micro_batches > whole.micro_batches
        assert streamed._sums.tokens == whole.tokens == sum(int(g.lengths.sum()) for g in groups)
        assert streamed._sums.loss == pytest.approx(whole.loss, rel=1e-5)


def test_the_step_is_the_gradient_of_the_mean_token_loss(groups: list[TrainGroup]) -> None:
    """Against autograd on the textbook expression: every response alone, one sum, one division."""
    import torch

    trainer = _trainer(max_grad_norm=1e9)
    losses = []
    for group in groups:
        advantages = group.rewards - group.rewards.mean()
        start = 0
        for index, policy in enumerate(_reference_logprobs(trainer, group, 1.0)):
            behaviour = torch.from_numpy(group.behaviour_logprobs[start : start + policy.numel()].copy())
            start += policy.numel()
            ratio, a = torch.exp(policy - behaviour), float(advantages[index])
            losses.append(-torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a))
    mean = torch.cat(losses).mean()
    gradients = torch.autograd.grad(mean, list(trainer._model.parameters()))
    norm = float(torch.cat([g.flatten() for g in gradients]).norm())

    trainer.accumulate(groups)
    stats = trainer.apply_step()
    assert stats.sums.metrics()["learner/loss"] == pytest.approx(float(mean.detach()), rel=1e-4)
    assert stats.grad_norm == pytest.approx(norm, rel=1e-4)
    assert stats.version == trainer.version == 1 and not stats.skipped


def test_first_adamw_step_moves_every_touched_weight_by_lr(groups: list[TrainGroup]) -> None:
    # AdamW's first step is lr * g / (|g| + eps): the sign of the gradient, whatever its scale
    trainer = _trainer(lr=1e-3, warmup_steps=4)
    before = _weights(trainer)
    trainer.accumulate(groups)
    touched = _flat(trainer).abs() > 1e-2
    stats = trainer.apply_step()
    assert stats.lr == pytest.approx(2.5e-4)  # a quarter of the way up
    moved = (_weights(trainer) - before).abs()[touched]
    assert touched.sum() > 1000
    assert float(moved.min()) == pytest.approx(2.5e-4, rel=2e-2) == float(moved.max())


def test_learning_rate_warms_up_and_stays() -> None:
    trainer = _trainer(lr=1e-3, warmup_steps=2)
    rates = []
    for _ in range(4):
        trainer.accumulate([_group(0)])
        rates.append(trainer.apply_step().lr)
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])


def test_a_repeated_group_is_learned(groups: list[TrainGroup]) -> None:
    trainer = _trainer(lr=1e-3, correction="tis")
    group = groups[0]
    before = [float(logprobs.detach().sum()) for logprobs in _reference_logprobs(trainer, group, 1.0)]
    for _ in range(5):
        trainer.accumulate([group])
        trainer.apply_step()
    after = [float(logprobs.detach().sum()) for logprobs in _reference_logprobs(trainer, group, 1.0)]
    gains = [now - then for now, then in zip(after, before, strict=True)]
    assert gains[0] > 1.0 and gains[0] > gains[1] and gains[0] > gains[2]


@pytest.mark.parametrize("where", ["reward", "behaviour"])
def test_a_number_that_is_not_finite_skips_the_step(where: str) -> None:
    import torch

    trainer = _trainer(max_bad_steps=3, weight_decay=0.1)
    good = _group(0)
    trainer.accumulate([good])
    trainer.apply_step()
    before = _weights(trainer)
    bad = _group(1, rewards=(1, math.nan, 0)) if where == "reward" else _group(1)
    if where == "behaviour":
        bad.behaviour_logprobs[3] = np.nan
    trainer.accumulate([good, bad])
    stats = trainer.apply_step()
    assert stats.skipped and stats.version == trainer.version == 2
    assert torch.equal(_weights(trainer), before)
    assert not _flat(trainer).any()  # nothing of the bad step leaks into the next
    trainer.accumulate([good])
    stats = trainer.apply_step()
    assert not stats.skipped and math.isfinite(stats.grad_norm)
    assert not torch.equal(_weights(trainer), before)


def test_bad_steps_in_a_row_end_the_run() -> None:
    trainer = _trainer(max_bad_steps=2)
    bad = _group(0, rewards=(math.nan, 0, 0))
    for group in (bad, _group(1), bad):  # a good one in between starts the count again
        trainer.accumulate([group])
        trainer.apply_step()
    trainer.accumulate([bad])
    with pytest.raises(RunFailed, match=r"2 steps in a row .*max_bad_steps = 2"):
        trainer.apply_step()


def test_truncated_responses_can_be_left_out() -> None:
    import torch

    group = _group(0, lengths=(5, 3, 12), capped=(False, False, True))
    masked, plain = _trainer(mask_truncated=True, correction="tis"), _trainer(correction="tis")
    assert masked.accumulate([group]).tokens == 8
    assert plain.accumulate([group]).tokens == 20
    assert not torch.allclose(_flat(masked), _flat(plain))
    only = _trainer(mask_truncated=True)
    before = _weights(only)
    only.accumulate([_group(0, lengths=(4,), rewards=(1,), capped=(True,))])
    stats = only.apply_step()  # nothing to learn from, but a step all the same
    assert (stats.version, stats.skipped, stats.sums.tokens) == (1, False, 0)
    assert torch.equal(_weights(only), before)


def test_zero_variance_tokens_count_and_move_nothing() -> None:
    import torch

    trainer = _trainer()
    sums = trainer.accumulate([_group(2, lengths=(9, 9), rewards=(1, 1))])
    assert sums.tokens == 18 and not _flat(trainer).any()
    before = _weights(trainer)
    assert not trainer.apply_step().skipped
    assert torch.equal(_weights(trainer), before)


def test_differences_are_measured_on_the_current_version_only() -> None:
    trainer = _trainer()
    trainer.version = 1
    old, swapped, new = (VersionSpan(0, 0),), (VersionSpan(0, 0), VersionSpan(1, 2)), (VersionSpan(1, 0),)
    group = msgspec.structs.replace(_group(0, lengths=(4, 6, 11)), version_spans=(old, swapped, new))
    # after a swap in flight a token still sees keys and values of the version before: only the third one is clean
    assert trainer.accumulate([group]).same_version_tokens == 11
    trainer.abandon()
    assert trainer.accumulate([_group(0)]).tokens == 0


def test_published_file_is_what_the_engine_expects(tmp_path: Path, groups: list[TrainGroup]) -> None:
    trainer = _trainer()
    trainer.accumulate(groups)
    trainer.apply_step()
    path = tmp_path / "weights" / "v000001.safetensors"
    trainer.publish(path)
    shapes = model_shapes(QUICKSTART_POLICY)
    check_weights(path, shapes, tied=False)  # exactly the folder's names: no second copy of a tied embedding
    assert read_shapes(path).keys() == shapes.keys()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_checkpoint_loads_and_equals(tmp_path: Path, groups: list[TrainGroup]) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = _trainer()
    trainer.accumulate(groups)
    trainer.apply_step()
    folder = tmp_path / "checkpoints" / "step_1"
    trainer.save_checkpoint(folder)
    trainer.save_checkpoint(folder)  # again: replaced, not an error
    assert [p.name for p in folder.parent.iterdir()] == ["step_1"]
    trainer.publish(tmp_path / "v.safetensors")
    published, saved = load_file(tmp_path / "v.safetensors"), load_file(folder / "model.safetensors")
    assert published.keys() == saved.keys()
    assert all(torch.equal(published[name], saved[name]) for name in saved)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(4, 40)[None]
    torch.testing.assert_close(loaded(ids).logits, trainer._model(ids).logits, atol=0, rtol=0)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (QUICKSTART_POLICY / name).read_bytes()
    tokenizer, source = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(QUICKSTART_POLICY)
    chat = [{"role": "user", "content": "a4b+3c-5"}]
    assert tokenizer.apply_chat_template(chat) == source.apply_chat_template(chat)
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


def test_bfloat16_model_trains_and_publishes_bfloat16(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    trainer = _trainer("bfloat16")
    trainer.accumulate([_group(0)])
    assert all(gradient.dtype == torch.float32 for gradient in trainer.gradients) and _flat(trainer).any()
    assert not trainer.apply_step().skipped
    trainer.publish(tmp_path / "v.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "v.safetensors").values()} == {torch.bfloat16}
    check_weights(tmp_path / "v.safetensors", model_shapes(QUICKSTART_POLICY), tied=False)


def test_bfloat16_weights_keep_what_they_cannot_represent() -> None:
    """Steps far below the spacing of bfloat16 add up in the float32 masters instead of being rounded away."""
    import torch

    from darts_async.engines.optimiser import StepOptimiser

    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))  # the next number below 1 is 1 - 2**-8
    optimiser = StepOptimiser([("weight", weight)], LearnerSection(lr=1e-3), steps=4)
    values = []
    for step in range(4):
        for part in (1.0, 2.0**-10):  # a bfloat16 sum of these would be 1
            (weight * part).sum().backward()
            optimiser.collect()
        assert optimiser.gradients[0].item() == 1.0 + 2.0**-10
        clip = torch.nn.utils.clip_grad_norm_
        update = optimiser.apply(denominator=1.0, loss=0.0, step=step, clip=clip)
        assert update.applied and update.grad_norm == pytest.approx(1.0 + 2.0**-10, rel=1e-6)
        values.append(weight.item())
    assert values == [1.0, 1.0 - 2.0**-8, 1.0 - 2.0**-8, 1.0 - 2.0**-8]  # of 0.999, 0.998, 0.997, 0.996
