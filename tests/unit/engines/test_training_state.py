"""Checkpoints with training state: going on from one is going on; what is damaged or of another model is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darts_async.config import Config
from darts_async.errors import ProtocolError
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

pytestmark = pytest.mark.torch


def _config(**sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "run": {"name": "state", "steps": 10},
        "group": {"size": 2, "keep_longest": 0, "groups_per_step": 2},
        "learner": {"lr": 1e-3, "warmup_steps": 4, "lr_schedule": "cosine", "weight_decay": 0.1},
    }
    return Config.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})


def _trainer(config: Config) -> Any:
    from darts_async.engines.trainer import load_trainer

    return load_trainer(config)


def _train(trainer: Any, rewards: tuple[float, float] = (1, 0)) -> Any:
    step = trainer.version
    rng = np.random.default_rng(step)
    spans = (VersionSpan(step, 0),)
    group = TrainGroup(
        group_id=step,
        prompt_id="p",
        step=step,
        prompt_tokens=np.arange(4, 9, dtype=np.int32),
        candidate_ids=(candidate_id(step, 0), candidate_id(step, 1)),
        lengths=np.array([7, 5], dtype=np.int32),
        response_tokens=rng.integers(4, 200, 12).astype(np.int32),
        behaviour_logprobs=np.full(12, -5.0, dtype=np.float32),
        version_spans=(spans, spans),
        rewards=np.array(rewards, dtype=np.float32),
        baseline_rewards=np.array(rewards, dtype=np.float32),
        baseline_lengths=np.array([7, 5], dtype=np.int32),
        capped=(False, False),
    )
    trainer.accumulate([group])
    return trainer.apply_step()


def _weights(trainer: Any, path: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    trainer.publish(path)
    return {name: tensor.view(-1).numpy(force=True).tobytes() for name, tensor in _as_bytes(load_file(path)).items()}


def _as_bytes(tensors: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: tensor.view(torch.uint8) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_going_on_from_a_checkpoint_is_going_on(tmp_path: Path, dtype: str) -> None:
    import torch
    import transformers

    config = _config(model={"dtype": dtype})
    trainer = _trainer(config)
    for _ in range(2):
        _train(trainer)
    checkpoint = tmp_path / "checkpoints" / "step_2"
    trainer.save_checkpoint(checkpoint)
    drawn = torch.rand(3)
    at_checkpoint = _weights(trainer, tmp_path / "two")
    uninterrupted = [(_train(trainer), _weights(trainer, tmp_path / "w")) for _ in range(2)]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["step_2"]  # nothing half-written beside it

    torch.rand(5)
    other = _trainer(config)
    _train(other)  # whatever it did before
    other.load_checkpoint(checkpoint)
    assert other.version == 2
    assert torch.equal(torch.rand(3), drawn)
    assert _weights(other, tmp_path / "w") == at_checkpoint
    for stats, weights in uninterrupted:
        again = _train(other)
        assert (again.version, again.lr, again.grad_norm) == (stats.version, stats.lr, stats.grad_norm)
        assert _weights(other, tmp_path / "w") == weights
    # For everybody else it is a model folder.
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
    assert {n: t.view(torch.uint8).numpy(force=True).tobytes() for n, t in model.state_dict().items()}.items() >= (
        at_checkpoint.items()
    )


def test_bad_steps_are_counted_on_and_a_gradient_that_overflows_is_one(tmp_path: Path) -> None:
    config = _config(learner={"advantage": "dr_grpo", "max_bad_steps": 2})
    trainer = _trainer(config)
    before = _weights(trainer, tmp_path / "w")
    stats = _train(trainer, rewards=(1e25, -1e25))  # the loss is a number; the squares of its gradient are not
    assert np.isfinite(stats.sums.loss) and stats.sums.loss != 0
    assert stats.skipped and stats.grad_norm == np.inf
    assert _weights(trainer, tmp_path / "w") == before
    trainer.save_checkpoint(tmp_path / "step_1")
    other = _trainer(config)
    other.load_checkpoint(tmp_path / "step_1")
    from darts_async.errors import RunFailed

    with pytest.raises(RunFailed, match="2 steps in a row"):
        _train(other, rewards=(1e25, -1e25))


def test_without_optimiser_state_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    trainer = _trainer(_config(checkpoint={"optimiser": False}))
    trainer.save_checkpoint(tmp_path / "step_0")
    assert not (tmp_path / "step_0" / "training_state").exists()
    with pytest.raises(ProtocolError, match="cannot read the training state"):
        trainer.load_checkpoint(tmp_path / "step_0")


def _cut(folder: Path) -> None:
    path = folder / "training_state" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "training_state" / "header.json"
        header = json.loads(path.read_text())
        change(header)
        path.write_text(json.dumps(header))

    return damage


def _other_model(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file(tensors | {name: tensors[name][:-1].clone()}, path, metadata={"format": "pt"})


def _moments_of_another_shape(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "training_state" / "tensors.safetensors"
    tensors = load_file(path)
    name = next(name for name, tensor in sorted(tensors.items()) if name.endswith("exp_avg") and tensor.ndim == 2)
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, path)
    _header(lambda h: h["tensors"].update({name: ["torch.float32", list(tensors[name].shape)]}))(folder)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_cut, "is not a training state"),
        (_header(lambda h: h.update(format=99)), "has format 99, this version reads 1"),
        (_header(lambda h: h.update(version=-1)), "is not a training state"),
        (_header(lambda h: h["tensors"].popitem()), "where the header says nothing"),
        (
            _header(lambda h: h["tensors"].update({"optimiser.more": ["torch.float32", [3]]})),
            "optimiser.more is missing",
        ),
        (_header(lambda h: h["tensors"].update({"random.cpu": ["torch.uint8", [3]]})), "tensor random.cpu is"),
        (_other_model, "where the model has"),
        (_moments_of_another_shape, "has shape"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(
    tmp_path: Path, damage: Callable[[Path], None], text: str
) -> None:
    trainer = _trainer(_config())
    _train(trainer)
    trainer.save_checkpoint(tmp_path / "step_1")
    damage(tmp_path / "step_1")
    _train(trainer)
    before = _weights(trainer, tmp_path / "w")
    with pytest.raises(ProtocolError, match=text):
        trainer.load_checkpoint(tmp_path / "step_1")
    assert trainer.version == 2
    assert _weights(trainer, tmp_path / "w") == before


def test_a_checkpoint_that_cannot_be_completed_leaves_the_old_one(tmp_path: Path) -> None:
    from darts_async.engines.weights import write_checkpoint

    trainer = _trainer(_config())
    folder = tmp_path / "step_1"
    trainer.save_checkpoint(folder)
    names = sorted(path.name for path in folder.rglob("*"))

    def disk_full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder, trainer._accelerator.unwrap_model(trainer._model), trainer._source, [disk_full])
    assert sorted(path.name for path in folder.rglob("*")) == names
    trainer.save_checkpoint(folder)  # what the failure left behind is in nobody's way
    assert sorted(path.name for path in folder.rglob("*")) == names
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
