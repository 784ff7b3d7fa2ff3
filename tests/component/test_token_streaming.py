"""Whole runs in one process, simulated engine and real trainer: tokens streamed or not, the same is learned."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.local import LocalRun
from darts_async.config import load_config
from darts_async.config.paths import QUICKSTART_POLICY, RunPaths
from darts_async.messages import Finished, Message, StepMetrics

pytestmark = pytest.mark.torch

_DEADLINE_S = 60.0
STEPS = 2


@pytest.fixture(scope="module", autouse=True)
def torch_is_imported() -> None:
    """Seconds, outside of any run's deadline."""
    importlib.import_module("darts_async.engines.trainer")


def play(folder: Path, rule: str, chunk_tokens: int) -> tuple[list[dict[str, float]], dict[str, float], dict[str, Any]]:
    """One run; return the metrics of its steps, the generator's summary and the last weights."""
    from safetensors.torch import load_file

    from darts_async.engines.trainer import load_trainer

    overrides = {
        "run.dir": str(folder),
        "run.name": f"chunks-{chunk_tokens}",
        "run.steps": str(STEPS),
        "eval.prompts": "0",
        "pipeline.mode": "stream",
        "model.max_response_tokens": "256",  # nothing gets there: who takes a capped survivor's place goes by arrival
        "group.size": "4",
        "group.groups_per_step": "2",
        "selection.rule": rule,
        "allocation.budget": "4" if rule == "all" else "6",
        "queues.chunk_tokens": str(chunk_tokens),
        "generator.engine": "sim",
        "generator.engine_args.mean_tokens": "40",
        "generator.engine_args.sigma": "0.5",
        "learner.kl_weight": "0.1",
        "learner.overlong_buffer_tokens": "255",  # no verifier rewards random tokens: let lengths do it
        "learner.lr": "1e-4",
    }
    config = load_config(None, list(overrides.items()))
    reports: list[Message] = []

    async def go() -> None:
        trainer = load_trainer(config)
        await asyncio.wait_for(LocalRun(config, reports.append).run(trainer=trainer), _DEADLINE_S)

    try:
        asyncio.run(go())
        steps: dict[int, dict[str, float]] = {}
        for report in reports:
            if isinstance(report, StepMetrics):
                steps.setdefault(report.step, {}).update(report.values)
        (summary,) = [r.summary for r in reports if isinstance(r, Finished) and r.role == "generator"]
        checkpoint = RunPaths.of(config).checkpoints / f"step_{STEPS}" / "model.safetensors"
        return [steps[step] for step in sorted(steps)], summary, load_file(checkpoint)
    finally:
        shutil.rmtree(RunPaths.of(config).weights, ignore_errors=True)


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return sum(float(((one[name].float() - other[name].float()) ** 2).sum()) for name in one) ** 0.5


@pytest.mark.parametrize("rule", ["all", "survivor"])
def test_a_run_with_token_streaming_learns_what_one_without_it_learns(tmp_path: Path, rule: str) -> None:
    from safetensors.torch import load_file

    streamed, summary, weights = play(tmp_path, rule, 8)
    plain, _, expected = play(tmp_path, rule, 0)
    assert sum(step["learner/chunk_tokens"] for step in streamed) > 0
    assert sum(step["learner/cached_share"] for step in streamed) > 0 == sum(s["learner/cached_share"] for s in plain)
    assert all(step["learner/broken_streams"] == 0 for step in streamed)
    assert summary["streams_dropped"] == 0
    for one, other in zip(streamed, plain, strict=True):
        for name in ("learner/tokens", "learner/loss", "learner/grad_norm", "reward/kept"):
            assert one[name] == pytest.approx(other[name], rel=2e-3, abs=1e-5), name
    moved = distance(load_file(QUICKSTART_POLICY / "model.safetensors"), expected)
    assert distance(weights, expected) < 2e-2 * moved
