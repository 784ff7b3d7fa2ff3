"""Training an adapter on the tiny policy: the base stays, the adapter goes out alone, others can read it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.engines.lora_file import FILE, adapter_bytes, base_mark, check_adapter
from darts_async.engines.weights_file import model_shapes, read_header
from darts_async.errors import ConfigError, ProtocolError
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

pytestmark = pytest.mark.torch
RANK = 4


def _config(model: dict[str, Any] | None = None, **learner: Any) -> Config:
    settings = {"lr": 3e-2, "weight_decay": 0.1, "lora_rank": RANK, "correction": "none", **learner}
    return Config.model_validate(
        {
            "run": {"name": "adapter", "steps": 10},
            "model": model or {},
            "group": {"size": 2, "keep_longest": 0, "groups_per_step": 2},
            "learner": settings,
        }
    )


def _trainer(config: Config) -> Any:
    from darts_async.engines.trainer import load_trainer

    return load_trainer(config)


def _groups(step: int) -> list[TrainGroup]:
    rng, spans = np.random.default_rng(step), (VersionSpan(step, 0),)
    return [
        TrainGroup(
            group_id=2 * step + number,
            prompt_id="p",
            step=step,
            prompt_tokens=np.arange(4, 9, dtype=np.int32),
            candidate_ids=(candidate_id(2 * step + number, 0), candidate_id(2 * step + number, 1)),
            lengths=np.array([7, 5], dtype=np.int32),
            response_tokens=rng.integers(4, 200, 12).astype(np.int32),
            behaviour_logprobs=np.full(12, -5.0, dtype=np.float32),
            version_spans=(spans, spans),
            rewards=np.array([1, 0], dtype=np.float32),
            baseline_rewards=np.array([1, 0], dtype=np.float32),
            baseline_lengths=np.array([7, 5], dtype=np.int32),
            capped=(False, False),
        )
        for number in range(2)
    ]


def _step(trainer: Any) -> Any:
    trainer.accumulate(_groups(trainer.version))
    return trainer.apply_step()


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.arange(4, 60)[None]).logits.float()


def _base() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(QUICKSTART_POLICY).eval()


def test_it_begins_as_its_base_and_only_the_adapter_moves() -> None:
    import torch

    trainer = _trainer(_config())
    assert torch.equal(_logits(trainer._model), _logits(_base()))
    frozen = {n: p.detach().clone() for n, p in trainer._model.named_parameters() if not p.requires_grad}
    trained = {n: p.detach().clone() for n, p in trainer._model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 3 and all(".lora_" in name for name in trained)  # A and B, of 7 layers in 3 blocks
    for _ in range(2):
        stats = _step(trainer)
        assert stats.grad_norm > 0 and not stats.skipped
    now = dict(trainer._model.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    assert not any(torch.equal(now[name], tensor) for name, tensor in trained.items())
    assert (_logits(trainer._model) - _logits(_base())).abs().max() > 0.1


def test_two_starts_begin_with_the_same_adapter_and_another_seed_with_another(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(1)
    one = _trainer(_config())
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn  # nobody else's random numbers were used up
    two = _trainer(_config())
    one.publish(tmp_path / "one")
    two.publish(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    config = _config()
    _trainer(config.model_copy(update={"run": config.run.model_copy(update={"seed": 7})})).publish(tmp_path / "three")
    assert (tmp_path / "three").read_bytes() != (tmp_path / "one").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_goes_out_is_the_adapter_alone_and_merged_it_is_the_policy(tmp_path: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from darts_async.engines.merging import Adapter, folder_tensors, merged_tensors

    config = _config(model={"dtype": dtype})
    trainer = _trainer(config)
    for _ in range(2):
        _step(trainer)
    published = tmp_path / "v.safetensors"
    trainer.publish(published)
    shapes = model_shapes(QUICKSTART_POLICY)
    check_adapter(published, shapes, base_mark(QUICKSTART_POLICY))
    payload = sum(entry.data_offsets[1] - entry.data_offsets[0] for entry in read_header(published).entries.values())
    assert payload == adapter_bytes(shapes, config)
    assert 6 * published.stat().st_size < (QUICKSTART_POLICY / "model.safetensors").stat().st_size

    trainer.save_checkpoint(tmp_path / "step_2")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "step_2", dtype=getattr(torch, dtype)).eval()
    assert merged.config.dtype == getattr(torch, dtype)
    apart = (_logits(trainer._model) - _logits(merged)).abs().max()
    moved = (_logits(_base().to(getattr(torch, dtype))) - _logits(merged)).abs().max()
    assert apart < (1e-4 if dtype == "float32" else 0.2) and moved > 0.3 and moved > 3 * apart
    # To the bit what an engine makes of the published file.
    served = dict(merged_tensors(QUICKSTART_POLICY, Adapter.read(published)))
    written = dict(folder_tensors(tmp_path / "step_2"))
    assert all(torch.equal(tensor, served[name].to(getattr(torch, dtype))) for name, tensor in written.items())


def test_peft_reads_the_checkpoints_adapter(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    trainer = _trainer(_config(lora_alpha=3.0, lora_targets=["q_proj", "down_proj"]))
    _step(trainer)
    _step(trainer)
    trainer.save_checkpoint(tmp_path / "step_2")
    theirs = PeftModel.from_pretrained(_base(), tmp_path / "step_2" / "adapter").eval()
    assert torch.equal(_logits(theirs), _logits(trainer._model))
    names = sorted(path.name for path in (tmp_path / "step_2").iterdir() if path.is_file())
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(names)


@pytest.mark.parametrize("kind", ["checkpoint", "recovery"])
def test_going_on_from_a_checkpoint_is_going_on(tmp_path: Path, kind: str) -> None:
    from darts_async.engines.restart_points import restart_points

    config = _config(kl_weight=0.1, updates_per_step=2)
    trainer = _trainer(config)
    _step(trainer)
    folder = tmp_path / "step_1"
    (trainer.save_checkpoint if kind == "checkpoint" else trainer.save_recovery)(folder)
    assert restart_points(tmp_path) == [(1, folder)]
    assert (folder / "model.safetensors").exists() == (kind == "checkpoint")
    after = [_step(trainer).grad_norm for _ in range(2)]
    trainer.publish(tmp_path / "expected")
    other = _trainer(config)
    _step(other)
    _step(other)  # whatever it did before
    other.load_checkpoint(folder)
    assert other.version == 1
    assert [_step(other).grad_norm for _ in range(2)] == after
    other.publish(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (tmp_path / "expected").read_bytes()

    wider = _trainer(_config(lora_rank=RANK + 1))
    with pytest.raises(ProtocolError, match=r"is \(4, 288\); with learner\.lora_rank"):
        wider.load_checkpoint(folder)
    (folder / "adapter" / FILE).write_bytes((folder / "adapter" / FILE).read_bytes()[:-1])
    assert restart_points(tmp_path) == []
    with pytest.raises(ProtocolError, match="cut off"):
        other.load_checkpoint(folder)


def test_a_version_can_be_published_again_from_its_checkpoint(tmp_path: Path) -> None:
    from darts_async.engines.trained_weights import republish

    trainer = _trainer(_config())
    _step(trainer)
    trainer.save_checkpoint(tmp_path / "step_1")
    trainer.publish(tmp_path / "once")
    republish(tmp_path / "step_1", tmp_path / "again", _config())
    assert (tmp_path / "again").read_bytes() == (tmp_path / "once").read_bytes()


@pytest.mark.parametrize("recompute", [False, True])
def test_the_reference_is_the_policy_with_its_adapter_off(recompute: bool) -> None:
    """Whole responses and streamed ones, with and without recomputed activations: the base model's log-probs."""
    import torch

    from darts_async.engines.micro_batch import rows_of
    from darts_async.messages import TrajectoryChunk

    config = _config(kl_weight=0.1, gradient_checkpointing=recompute)
    config = config.model_copy(update={"queues": config.queues.model_copy(update={"chunk_tokens": 3})})
    trainer = _trainer(config)
    for _ in range(2):
        _step(trainer)
    reference = trainer.frozen.reference
    assert reference is not None and reference._model is trainer._model
    group = _groups(2)[0]
    rows = list(rows_of(group, np.zeros(2, np.float32), mask_truncated=False))
    trainer.frozen.put(
        TrajectoryChunk(
            candidate_id=rows[0].candidate_id,
            start=0,
            prompt_tokens=rows[0].prompt,
            response_tokens=rows[0].response[:4],
        )
    )
    assert trainer.frozen.score_ahead(lambda: True) is False
    trainer.frozen.fill([group], rows, go_on=lambda: True)
    assert trainer.frozen.take_metrics()["learner/cached_share"] > 0
    base = _base()
    for row in rows:
        ids = torch.from_numpy(np.concatenate([row.prompt, row.response]).astype(np.int64))[None]
        with torch.no_grad():
            logprobs = torch.log_softmax(base(input_ids=ids).logits[0, row.prompt.size - 1 : -1].float(), -1)
        expected = logprobs.gather(1, ids[0, row.prompt.size :, None])[:, 0].numpy()
        np.testing.assert_allclose(row.reference_logprobs, expected, atol=2e-5)
    stats = _step(trainer)  # and the adapter is on again, and learns
    assert stats.grad_norm > 0
    assert (_logits(trainer._model) - _logits(base)).abs().max() > 0.1


def test_gradients_with_recomputed_activations_are_the_same() -> None:
    import torch

    plain, saving = _trainer(_config()), _trainer(_config(gradient_checkpointing=True))
    for trainer in (plain, saving):
        _step(trainer)
        trainer.accumulate(_groups(1))
    for mine, theirs in zip(plain.gradients, saving.gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["no_such_layer"], "no_such_layer"),
        (["embed_tokens"], "is a Embedding, no linear layer"),
        (["lm_head"], "shares its weight with the embedding"),
    ],
)
def test_targets_that_cannot_be_merged_are_refused(targets: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        _trainer(_config(lora_targets=targets))
    assert caught.value.key == "learner.lora_targets"
    if targets == ["no_such_layer"]:
        assert "q_proj" in caught.value.fix


def test_a_new_run_begins_from_a_checkpoint_with_or_without_its_optimiser(tmp_path: Path) -> None:
    """Of a run that trained everything: the next update is the one that would have followed, at the same rate."""
    first = _trainer(_config(lora_rank=0, lr=1e-3))
    for _ in range(2):
        _step(first)
    folder = tmp_path / "step_2"
    first.save_checkpoint(folder)
    first.accumulate(_groups(0))
    first.apply_step()
    first.publish(tmp_path / "expected")
    settings = {"lora_rank": 0, "lr": 1e-3}
    with_state = _trainer(_config(model={"path": str(folder)}, init_optimiser=True, **settings))
    without = _trainer(_config(model={"path": str(folder)}, **settings))
    assert with_state.version == without.version == 0
    for trainer, name in ((with_state, "with"), (without, "without")):
        trainer.accumulate(_groups(0))
        trainer.apply_step()
        trainer.publish(tmp_path / name)
    assert (tmp_path / "with").read_bytes() == (tmp_path / "expected").read_bytes()
    assert (tmp_path / "without").read_bytes() != (tmp_path / "expected").read_bytes()

    (folder / "training_state" / "header.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        _trainer(_config(model={"path": str(folder)}, init_optimiser=True, **settings))
    assert caught.value.key == "learner.init_optimiser"


def test_an_adapter_on_a_checkpoint_of_an_adapter_begins_on_its_merged_weights(tmp_path: Path) -> None:
    import torch

    first = _trainer(_config())
    for _ in range(2):
        _step(first)
    first.save_checkpoint(tmp_path / "step_2")
    again = _trainer(_config(model={"path": str(tmp_path / "step_2")}))
    torch.testing.assert_close(_logits(again._model), _logits(first._model), atol=1e-4, rtol=1e-4)
    again.publish(tmp_path / "v")
    with pytest.raises(ProtocolError, match="another base model"):
        check_adapter(tmp_path / "v", model_shapes(QUICKSTART_POLICY), base_mark(QUICKSTART_POLICY))
