"""Whole runs in one process whose links repeat old messages: a repeat changes nothing, and ends nobody.

Each writer of each link says again, behind a third of its messages, one of those that it has said before, the oldest
included, as a stranger would who has recorded them. The same run without repeats is what is compared with.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import uvloop

from actors.local import LocalRun
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.engines.token_sums import TokenSums
from darts_async.messages import EvalResult, Finished, Message, TrainGroup, Warn
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.transport import memory_links
from darts_async.transport.memory_pipe import MemoryPipe

_DEADLINE_S = 60.0
_SHARE = 0.34


class EchoPipe(MemoryPipe[Any]):
    """A pipe that repeats what its writers have said. The order of what is new stays."""

    rng = random.Random(0)
    num_repeated: ClassVar[defaultdict[str, int]] = defaultdict(int)

    def __init__(self, hwm: int, codec: Any) -> None:
        super().__init__(hwm, codec)
        self._said: defaultdict[str, list[Any]] = defaultdict(list)

    def put(self, writer: str, item: Any) -> bool | None:
        done = super().put(writer, item)
        if done:
            self._said[writer].append(item)
            # At once if there was none of its kind yet: of the rare kinds too.
            if not self.num_repeated[_kind_of(item)]:
                self._repeat(writer, item)
            elif self.rng.random() < _SHARE:
                self._repeat(writer, self.rng.choice(self._said[writer]))
        return done

    def _repeat(self, writer: str, item: Any) -> None:
        if super().put(writer, item):
            self.num_repeated[_kind_of(item)] += 1


def _kind_of(item: Any) -> str:
    kind: str = msgspec.msgpack.decode(item[0])["type"]
    return kind


class Stats:
    """What the learner reads of a finished step."""

    skipped, grad_norm, lr, sums = False, 0.0, 0.0, TokenSums()
    observed: ClassVar[dict[str, float]] = {}

    def __init__(self, version: int) -> None:
        self.version = version


class Recorder:
    """A trainer that writes down what it is given."""

    def __init__(self) -> None:
        self.version = 0
        self.steps: list[list[TrainGroup]] = []
        self._open: list[TrainGroup] = []

    def accumulate(self, groups: list[TrainGroup]) -> TokenSums:
        self._open += groups
        return TokenSums()

    def apply_step(self) -> Stats:
        self.steps.append(self._open)
        self._open = []
        self.version += 1
        return Stats(self.version)

    def abandon(self) -> None:
        pass

    def publish(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)

    save_recovery = save_checkpoint

    def contents(self) -> list[dict[int, tuple[Any, ...]]]:
        """Per step, what a gradient could depend on."""
        return [
            {
                group.group_id: (
                    group.prompt_id,
                    group.candidate_ids,
                    group.response_tokens.tobytes(),
                    group.behaviour_logprobs.tobytes(),
                    group.rewards.tobytes(),
                    group.baseline_rewards.tobytes(),
                )
                for group in step
            }
            for step in self.steps
        ]


def _play(folder: Path, preset: str, keys: dict[str, str]) -> tuple[Recorder, list[Message]]:
    overrides = {"run.dir": str(folder), "run.name": "r", "run.steps": "8", "model.dtype": "float32"}
    overrides |= {"generator.engine": "sim", "generator.replicas": "2", "group.groups_per_step": "4"}
    overrides |= {"eval.prompts": "4", "eval.every_steps": "3", "checkpoint.every_steps": "4"}
    overrides |= {f"generator.engine_args.{k}": v for k, v in {"mean_tokens": "30", "token_s": "0.0002"}.items()}
    config = load_config(preset, list((overrides | keys).items()))
    trainer, reports = Recorder(), []

    async def go() -> None:
        await asyncio.wait_for(LocalRun(config, reports.append).run(trainer=trainer), _DEADLINE_S)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(go())
    finally:
        shutil.rmtree(RunPaths.of(config).weights, ignore_errors=True)
    audit = LedgerAudit()
    for record in LedgerReader(RunPaths.of(config).ledger):
        audit.feed(record)
    audit.finish(live=False)
    assert audit.violations == []
    return trainer, reports


def _of(reports: list[Message], role: str) -> dict[str, float]:
    return next(m.summary for m in reports if isinstance(m, Finished) and m.role == role)


@pytest.fixture
def echoes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_links, "MemoryPipe", EchoPipe)
    monkeypatch.setattr(EchoPipe, "rng", random.Random(3))
    monkeypatch.setattr(EchoPipe, "num_repeated", defaultdict(int))


@pytest.mark.parametrize("mode", ["sync", "stream"])
def test_a_run_that_repeats_itself_trains_on_the_same(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"pipeline.mode": mode, "generator.engine_args.fail_share": "0.05"}
    plain, told = _play(tmp_path / "plain", "darts_paper", keys)
    monkeypatch.setattr(memory_links, "MemoryPipe", EchoPipe)
    monkeypatch.setattr(EchoPipe, "rng", random.Random(3))
    monkeypatch.setattr(EchoPipe, "num_repeated", defaultdict(int))
    echoed, again = _play(tmp_path / "echoed", "darts_paper", keys)
    assert sum(EchoPipe.num_repeated.values()) > 300
    for kind in ("GroupPlan", "GroupOutcome", "RolloutRequest", "Credits", "Trajectory", "TrainGroup", "StepDone"):
        assert EchoPipe.num_repeated[kind] > 0, kind
    assert echoed.contents() == plain.contents()
    for what in ("rollouts/generated", "tokens/generated", "tokens/trained", "rollouts/failed", "groups/trained"):
        assert _of(again, "selector")[what] == _of(told, "selector")[what], what
    assert _of(again, "allocator")["groups_dispatched"] == _of(told, "allocator")["groups_dispatched"]
    scores = [[m for m in reports if isinstance(m, EvalResult)] for reports in (told, again)]
    assert [(m.label, m.policy_version, m.reward) for m in scores[0]] == [
        (m.label, m.policy_version, m.reward) for m in scores[1]
    ]


@pytest.mark.parametrize(
    ("preset", "keys"),
    [
        ("quickstart", {"pipeline.mode": "async", "pipeline.max_staleness": "2"}),
        ("partial_rollout", {"pipeline.mode": "async"}),
        ("tail_batching", {}),
    ],
)
@pytest.mark.usefixtures("echoes")
def test_every_mode_survives_repeats(tmp_path: Path, preset: str, keys: dict[str, str]) -> None:
    trainer, reports = _play(tmp_path, preset, {"eval.prompts": "0", "eval.every_steps": "0"} | keys)
    ids = [group.group_id for step in trainer.steps for group in step]
    assert len(trainer.steps) == 8 and len(ids) == len(set(ids)) == 32
    assert _of(reports, "selector")["groups/stale"] == 0
    made = sum(m.summary["tokens"] for m in reports if isinstance(m, Finished) and m.role == "generator")
    assert made == _of(reports, "selector")["tokens/generated"]
    assert not [m.text for m in reports if isinstance(m, Warn) and "never planned" in m.text]
