"""A whole run that trains an adapter, with the simulated engine: what is published, and what is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import uvloop

from actors.local import LocalRun
from darts_async.config import load_config
from darts_async.config.paths import QUICKSTART_POLICY, RunPaths
from darts_async.engines.lora_file import FILE, FOLDER, base_mark, check_adapter
from darts_async.engines.weights_file import model_shapes, read_shapes
from darts_async.messages import Message, StepMetrics

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def test_a_run_with_an_adapter_publishes_adapters_and_leaves_a_model(tmp_path: Path) -> None:
    config = load_config(
        "quickstart",
        [
            ("run.dir", str(tmp_path)),
            ("run.name", "adapter"),
            ("run.steps", "2"),
            ("group.size", "4"),
            ("group.groups_per_step", "2"),
            ("allocation.budget", "5"),
            ("eval.prompts", "0"),
            ("generator.engine", "sim"),
            ("generator.engine_args.mean_tokens", "12.0"),
            ("generator.engine_args.token_s", "0.0002"),
            ("learner.lora_rank", "4"),
            ("learner.lr", "1e-3"),
            ("learner.kl_weight", "0.01"),
            ("checkpoint.recovery_steps", "1"),
        ],
    )
    paths, seen, reports = RunPaths.of(config), [], list[Message]()

    async def play() -> None:
        run = LocalRun(config, look)
        await run.run()

    def look(message: Message) -> None:
        reports.append(message)
        if (
            isinstance(message, StepMetrics) and "learner/grad_norm" in message.values
        ):  # replicas have it, or will have: it is there
            seen.append(max(paths.weights.glob("v*.safetensors")).read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        uvloop.run(play())
    steps = [m for m in reports if isinstance(m, StepMetrics) and "learner/grad_norm" in m.values]
    assert [message.values["policy_version"] for message in steps] == [1, 2]
    assert all(message.values["learner/grad_norm"] > 0 for message in steps)
    assert len(set(seen)) == 2
    for content in seen:
        (tmp_path / "seen").write_bytes(content)
        check_adapter(tmp_path / "seen", model_shapes(QUICKSTART_POLICY), base_mark(QUICKSTART_POLICY))
    checkpoint = paths.checkpoints / "step_2"
    assert model_shapes(checkpoint) == model_shapes(QUICKSTART_POLICY)
    assert (checkpoint / FOLDER / FILE).read_bytes() == seen[-1]
    assert read_shapes(checkpoint / "training_state" / "tensors.safetensors")
    described: dict[str, Any] = json.loads((checkpoint / FOLDER / "adapter_config.json").read_text())
    assert (described["peft_type"], described["r"], described["lora_alpha"]) == ("LORA", 4, 8)
