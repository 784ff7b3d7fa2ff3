"""Two processes (gloo, on the CPU) against one: the same losses, norms and weights. And how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY, RunPaths
from darts_async.engines.weights_file import model_shapes
from darts_async.errors import RunFailed
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

if TYPE_CHECKING:
    from darts_async.engines.parallel_trainer import ParallelTrainer
    from darts_async.engines.trainer import PolicyTrainer

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]  # libraries are loaded in each process

_STEPS = 2
_GROUPS = 4


def _config(folder: Path, processes: int, dtype: str = "float32", **learner: Any) -> Config:
    settings = {
        "lr": 1e-3,
        "lr_schedule": "linear",
        "weight_decay": 0.1,
        "micro_batch_tokens": 40,
        "processes": processes,
        "correction": "tis",
        **learner,
    }
    return Config.model_validate(
        {
            "run": {"dir": str(folder), "name": "run", "steps": 10},
            "model": {"dtype": dtype},
            "group": {"groups_per_step": _GROUPS},
            "learner": settings,
        }
    )


def _train_group(group_id: int, step: int) -> TrainGroup:
    """Three responses; the longest is a micro-batch alone."""
    rng = np.random.default_rng(100 * step + group_id)
    lengths = rng.integers(1, 30, 3).astype(np.int32)
    total = int(lengths.sum())
    rewards = np.array([1, 0, group_id % 2], dtype=np.float32)
    return TrainGroup(
        group_id=group_id,
        prompt_id=f"p{group_id}",
        step=step,
        prompt_tokens=rng.integers(4, 200, 5).astype(np.int32),
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(3)),
        lengths=lengths,
        response_tokens=rng.integers(4, 200, total).astype(np.int32),
        behaviour_logprobs=rng.normal(-5.0, 0.5, total).astype(np.float32),
        version_spans=((VersionSpan(step, 0),),) * 3,
        rewards=rewards,
        baseline_rewards=rewards,
        baseline_lengths=lengths,
        capped=(False,) * 3,
    )


def _train(trainer: PolicyTrainer | ParallelTrainer, out: Path) -> list[dict[str, float]]:
    """Some steps, each in two parts; the last one's weights to a file."""
    curve = []
    for step in range(_STEPS):
        groups = [_train_group(index, step) for index in range(_GROUPS)]
        trainer.accumulate(groups[:1])
        trainer.accumulate(groups[1:])
        stats = trainer.apply_step()
        assert stats.version == trainer.version == step + 1
        curve.append({**stats.sums.metrics(), **stats.observed, "norm": stats.grad_norm, "lr": stats.lr})
    trainer.publish(out)
    return curve


def _same_curve(got: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if name != "learner/padded_tokens":
                assert mine[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name


def _same_weights(got: Path, expected: Path, atol: float = 2e-5) -> None:
    import torch
    from safetensors.torch import load_file

    mine, theirs = load_file(got), load_file(expected)
    assert mine.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], atol=atol, rtol=0, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[list[dict[str, float]], Path]]:
    """What a single process makes of the same groups."""
    from darts_async.engines.trainer import load_trainer

    def train(**learner: Any) -> tuple[list[dict[str, float]], Path]:
        folder = tmp_path_factory.mktemp("alone")
        return _train(load_trainer(_config(folder, 1, **learner)), folder / "w.safetensors"), folder / "w.safetensors"

    return train


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., ParallelTrainer]]:
    from darts_async.engines.parallel_trainer import ParallelTrainer

    made: list[ParallelTrainer] = []

    def make(**learner: Any) -> ParallelTrainer:
        made.append(ParallelTrainer(_config(tmp_path, 2, **learner)))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "learner_worker" in " ".join(child.cmdline())]


def test_replicas_train_as_one_and_a_killed_one_is_named(pair: Any, alone: Any, tmp_path: Path) -> None:
    """Two updates a step, so that a frozen proximal policy is part of it, and a shadow whose gradient is compared."""
    settings = {"updates_per_step": 2, "shadow": [{"loss": "cispo"}], "shadow_every": 1}
    trainer = pair(**settings)
    got = _train(trainer, tmp_path / "w.safetensors")
    expected, weights = alone(**settings)
    assert any(name.endswith("/cosine") for name in expected[0])
    _same_curve(got, expected)
    _same_weights(tmp_path / "w.safetensors", weights)

    [worker] = _children()
    worker.kill()
    log = RunPaths.of(_config(tmp_path, 2)).logs / "learner-0.rank-1.log"
    with pytest.raises(RunFailed, match=rf"rank 1 was killed by SIGKILL; its log is {log}"):
        _step_from(trainer)


@pytest.mark.long
def test_shards_train_as_one(pair: Any, alone: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    settings = {"kl_weight": 0.01, "shadow": [{"loss": "cispo"}], "shadow_every": 2}
    trainer = pair(sharding="fsdp2", **settings)
    gradients = trainer.gradients
    assert all(type(gradient).__name__ == "DTensor" for gradient in gradients)
    got = _train(trainer, tmp_path / "w.safetensors")
    expected, weights = alone(**settings)
    _same_curve(got, expected)
    _same_weights(tmp_path / "w.safetensors", weights)

    trainer.save_checkpoint(tmp_path / "step_2")
    assert json.loads((tmp_path / "step_2" / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step_2").state_dict()
    published = load_file(tmp_path / "w.safetensors")
    assert all((loaded[name] == tensor).all() for name, tensor in published.items())

    # going back gives the step that was made from there
    after = [_step_from(trainer), _step_from(trainer)]
    trainer.load_checkpoint(tmp_path / "step_2")
    assert trainer.version == _STEPS
    assert [_step_from(trainer), _step_from(trainer)] == pytest.approx(after, rel=1e-6)

    trainer.abandon()
    assert trainer.accumulate([_train_group(0, 9)]).tokens == 0
    trainer.close()
    assert not _children()


@pytest.mark.long
@pytest.mark.parametrize(("sharding", "dtype"), [("replicate", "float32"), ("fsdp2", "float32"), ("fsdp2", "bfloat16")])
def test_an_adapter_is_trained_as_one(pair: Any, alone: Any, tmp_path: Path, sharding: str, dtype: str) -> None:
    """With a reference: the policy with its adapter off, or a model of its own where the policy is in shards."""
    from safetensors.torch import load_file

    settings = {"kl_weight": 0.01, "lora_rank": 4, "dtype": dtype}
    trainer = pair(sharding=sharding, **settings)
    got = _train(trainer, tmp_path / "w.safetensors")
    expected, weights = alone(**settings)
    assert expected[1]["norm"] > 0
    if dtype == "float32":
        _same_curve(got, expected)
        _same_weights(tmp_path / "w.safetensors", weights)
    else:  # the same adapter, to the rounding of its type
        _same_weights(tmp_path / "w.safetensors", weights, atol=5e-3)

    trainer.save_checkpoint(tmp_path / "step_2")
    adapter = tmp_path / "step_2" / "adapter" / "adapter_model.safetensors"
    assert adapter.read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    assert load_file(tmp_path / "step_2" / "model.safetensors").keys() == model_shapes(QUICKSTART_POLICY).keys()
    after = [_step_from(trainer), _step_from(trainer)]
    trainer.load_checkpoint(tmp_path / "step_2")
    assert trainer.version == _STEPS
    assert [_step_from(trainer), _step_from(trainer)] == pytest.approx(after, rel=1e-6)


def _step_from(trainer: ParallelTrainer) -> float:
    trainer.accumulate([_train_group(index, 7) for index in range(_GROUPS)])
    return trainer.apply_step().grad_norm


_RANK_0 = """
import os, sys
from pathlib import Path
from darts_async.engines.worker_process import WorkerProcess
worker = WorkerProcess(1, Path(sys.argv[1]), dict(os.environ), lambda: None)
print(worker.process.pid, flush=True)
sys.stdin.read()
"""


def test_no_worker_outlives_a_killed_learner(tmp_path: Path) -> None:
    learner = subprocess.Popen(
        [sys.executable, "-c", _RANK_0, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with learner:
        assert learner.stdout is not None
        worker = psutil.Process(int(learner.stdout.readline()))
        assert worker.is_running() and os.getpgid(worker.pid) == os.getpgid(learner.pid)
        learner.send_signal(signal.SIGKILL)
        assert learner.wait(10) == -signal.SIGKILL
        worker.wait(10)  # raises when it still runs
