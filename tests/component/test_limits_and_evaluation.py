"""Whole runs with the simulated engine: held-out evaluations at exactly their version, limits, the best checkpoint."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from actors.local import LocalRun
from darts_async.config import Config, load_config
from darts_async.config.paths import RunPaths
from darts_async.engines.sim_engine import SimEngine
from darts_async.engines.token_sums import TokenSums
from darts_async.messages import LEDGER_STATES, EvalResult, Finished, Message, RolloutRequest, TrainGroup
from darts_async.runtime.record import RunRecord
from darts_async.tasks.prompt_set import load_prompts

_DEADLINE_S = 40.0


@dataclass
class Made:
    """What the learner reads of a finished step."""

    version: int
    skipped: bool = False
    grad_norm: float = 0.0
    lr: float = 0.0
    sums: TokenSums = field(default_factory=TokenSums)
    observed: dict[str, float] = field(default_factory=dict)


class Counting:
    """A trainer without a model. Publishes and saves empty files."""

    def __init__(self) -> None:
        self.version = 0
        self.tokens = 0
        self.last = 0
        """Tokens of the last step."""
        self._open = 0

    def accumulate(self, groups: list[TrainGroup]) -> TokenSums:
        num = sum(int(group.lengths.sum()) for group in groups)
        self.tokens += num
        self._open += num
        return TokenSums()

    def apply_step(self) -> Made:
        self.version += 1
        self.last, self._open = self._open, 0
        return Made(self.version)

    def abandon(self) -> None:
        pass

    def publish(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)


class Watched(SimEngine):
    """Notes for requests of the held-out set which version was asked for and which ones sampled."""

    def __init__(self, config: Config, rank: int, seen: dict[int, tuple[int, set[int]]]) -> None:
        super().__init__(config, rank)
        self._held_out = {prompt.tokens.tobytes() for prompt in load_prompts(config).held_out}
        self._seen = seen

    async def generate(self, request: RolloutRequest, prefix: Any = ()) -> Any:
        evaluates = request.prompt_tokens.tobytes() in self._held_out
        async for output in super().generate(request, prefix):
            if evaluates and output.finish_reason is not None:
                versions = {span.version for span in output.version_spans}
                self._seen[request.candidate_id] = (request.min_policy_version, versions)
            yield output


@dataclass
class Ended:
    config: Config
    trainer: Counting
    reports: list[Message]
    seen: dict[int, tuple[int, set[int]]]

    def evals(self, label: str) -> list[EvalResult]:
        return [m for m in self.reports if isinstance(m, EvalResult) and m.label == label]

    @property
    def summary(self) -> dict[str, Any]:
        record = RunRecord()
        for message in self.reports:
            if isinstance(message, Finished):
                record.add_finished(message)
            elif isinstance(message, EvalResult):
                record.add_eval(message)
        return record.summary(status="done", wall_s=1.0)

    def check_books(self) -> None:
        for what in ("rollouts", "tokens"):
            books = self.summary[what]
            assert sum(books[state] for state in LEDGER_STATES) == books["generated"] > 0
        parts = [m.summary for m in self.reports if isinstance(m, Finished) and m.role == "generator"]
        assert self.summary["tokens"]["trained"] == self.trainer.tokens
        assert sum(part["tokens"] for part in parts) > self.summary["tokens"]["generated"]  # evaluations beside them


def play(tmp_path: Path, preset: str, *speeds: dict[str, Any], **keys: str) -> Ended:
    """One run on as many simulated engines as there are speeds."""
    overrides = {"run.dir": str(tmp_path / f"{len(list(tmp_path.iterdir()))}"), "run.name": "r", "run.steps": "6"}
    overrides |= {"generator.engine": "sim", "generator.replicas": str(len(speeds)), "group.groups_per_step": "4"}
    overrides |= {"eval.prompts": "6", "eval.samples": "3", "eval.every_steps": "2", "model.dtype": "float32"}
    overrides |= {name.replace("__", "."): value for name, value in keys.items()}
    config = load_config(preset, list(overrides.items()))
    seen: dict[int, tuple[int, set[int]]] = {}
    engines = []
    for rank, speed in enumerate(speeds):
        arguments = {"mean_tokens": 30, "token_s": 0.0002} | speed
        generator = config.generator.model_copy(update={"engine_args": arguments})
        engines.append(Watched(config.model_copy(update={"generator": generator}), rank, seen))
    trainer, reports = Counting(), []

    async def go() -> None:
        await asyncio.wait_for(LocalRun(config, reports.append).run(engines=engines, trainer=trainer), _DEADLINE_S)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(go())
    finally:
        shutil.rmtree(RunPaths.of(config).weights, ignore_errors=True)
    return Ended(config, trainer, reports, seen)


FAST: dict[str, Any] = {}
SLOW: dict[str, Any] = {"token_s": 0.001, "update_s": 0.02}
UNEVEN: dict[str, Any] = {"sigma": 1.0, "fail_share": 0.05}
MODES = [
    ("grpo_sync", {}),
    ("quickstart", {"pipeline__mode": "stream"}),
    ("one_step_off", {}),
    ("quickstart", {}),
    ("quickstart", {"pipeline__max_staleness": "3"}),
    # Evaluations queue up behind each other while groups of later versions wait in the replicas.
    ("quickstart", {"pipeline__max_staleness": "3", "eval__every_steps": "1", "eval__prompts": "12"}),
    ("tail_batching", {}),
    ("partial_rollout", {}),
    ("oversample_first_finished", {}),
]


@pytest.mark.parametrize(("preset", "keys"), MODES)
def test_the_held_out_set_is_sampled_by_exactly_its_version(tmp_path: Path, preset: str, keys: dict[str, str]):
    # As few slots as the largest group needs: evaluations must not starve behind groups that wait for later versions.
    slots = "12" if preset != "grpo_sync" else "8"
    keys = {"generator__max_num_seqs": slots, "allocation__max": slots} | keys
    result = play(tmp_path, preset, FAST | UNEVEN, SLOW | UNEVEN, **keys)
    result.check_books()
    during = [version for version in range(1, 6) if version % result.config.eval.every_steps == 0]
    assert [m.policy_version for m in result.evals("during")] == during
    assert [m.policy_version for m in result.evals("after")] == [6]
    assert result.summary["ended_by"] == "steps"
    for found in result.summary["eval"]["during"]:
        most = 3 * result.config.eval.prompts
        assert 0.7 * most <= found["rollouts"] <= most  # some fail, and are not repaired
    # Every token of it, on either replica, is of the version that was asked for.
    assert all(versions == {asked} for asked, versions in result.seen.values())
    finished = Counter(asked for asked, _ in result.seen.values())
    results = [*result.evals("before"), *result.evals("during"), *result.evals("after")]
    assert finished == {m.policy_version: m.num_rollouts for m in results}


@pytest.mark.parametrize(("preset", "keys"), MODES)
def test_a_limit_ends_the_run_in_every_mode(tmp_path: Path, preset: str, keys: dict[str, str]):
    limit = "wall_s" if MODES.index((preset, keys)) % 2 else "trained_tokens"
    limits = {"run__max_trained_tokens": "2500"} if limit == "trained_tokens" else {"run__max_wall_s": "0.4"}
    result = play(tmp_path, preset, UNEVEN, SLOW | UNEVEN, run__steps="100000", **limits, **keys)
    result.check_books()
    assert result.summary["ended_by"] == limit
    (after,) = result.evals("after")
    assert after.policy_version == result.trainer.version == result.summary["policy_version"] < 100
    assert all(versions == {asked} for asked, versions in result.seen.values())
    if limit == "trained_tokens":
        assert result.trainer.tokens >= 2500
        assert result.trainer.tokens - result.trainer.last < 2500
    checkpoints = RunPaths.of(result.config).checkpoints
    best = json.loads((checkpoints / "best.json").read_text())
    kept = {f"step_{after.policy_version}", f"step_{best['step']}", "best.json"}
    assert {path.name for path in checkpoints.iterdir()} == kept
    scored = [*result.evals("during"), after]
    expected = min(scored, key=lambda m: (-m.reward, m.response_length, m.policy_version))
    assert best == {
        "step": expected.policy_version,
        "reward": expected.reward,
        "response_length": expected.response_length,
    }
