"""Settings that are changed while a run goes on: each takes effect in the run, read off what the roles then do."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop
from rich.console import Console

from actors.local import LocalRun
from darts_async.algorithms.staleness import staleness
from darts_async.config import Config, load_config
from darts_async.config.live import change
from darts_async.config.paths import RunPaths
from darts_async.engines.sim_engine import SimEngine
from darts_async.engines.token_sums import TokenSums
from darts_async.launcher.replay import replay, show
from darts_async.messages import Finished, KnobChange, Message, RolloutRequest, StepMetrics, TrainGroup, group_of

_DEADLINE_S = 60.0


@dataclass
class Applied:
    version: int
    skipped: bool = False
    grad_norm: float = 0.0
    lr: float = 0.0
    sums: TokenSums = field(default_factory=TokenSums)
    observed: dict[str, float] = field(default_factory=dict)


class Noting:
    """A trainer without a model that notes what it is given and when."""

    def __init__(self) -> None:
        self.version = 0
        self.chunks: dict[int, list[int]] = defaultdict(list)
        """Sizes of the calls, by the version that they update."""
        self.groups: dict[int, list[TrainGroup]] = defaultdict(list)
        self.checkpoints: list[str] = []
        self.restart_points: list[str] = []
        self.tokens = 0

    def accumulate(self, groups: list[TrainGroup]) -> TokenSums:
        self.chunks[self.version].append(len(groups))
        self.groups[self.version] += groups
        self.tokens += sum(int(group.lengths.sum()) for group in groups)
        return TokenSums()

    def apply_step(self) -> Applied:
        self.version += 1
        return Applied(self.version)

    def abandon(self) -> None:
        pass

    def publish(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.checkpoints.append(folder.name)

    def save_recovery(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.restart_points.append(folder.name)


class Counted(SimEngine):
    """Notes which candidates were asked for, and how many groups were in it at once."""

    def __init__(self, config: Config, rank: int) -> None:
        super().__init__(config, rank)
        self.asked: dict[int, set[int]] = defaultdict(set)
        self.running: list[int] = []

    async def generate(self, request: RolloutRequest, prefix: Any = ()) -> Any:
        group = group_of(request.candidate_id)
        self.asked[group].add(request.candidate_id)
        self.running.append(group)
        try:
            async for output in super().generate(request, prefix):
                yield output
        finally:
            self.running.remove(group)

    @property
    def num_groups(self) -> int:
        return len(set(self.running))


class Scene:
    """One run in this process, with somebody who changes settings of it."""

    def __init__(
        self, tmp_path: Path, *overrides: tuple[str, str], preset: str | None = None, token_s: float = 0.0002
    ) -> None:
        keys = {
            "run.dir": str(tmp_path),
            "run.name": "live",
            "run.steps": "400",
            "generator.engine": "sim",
            "group.groups_per_step": "4",
            "eval.prompts": "0",
            "model.dtype": "float32",
            "checkpoint.recovery_steps": "0",
        } | dict(overrides)
        self.config = load_config(preset, list(keys.items()))
        speed = {"mean_tokens": 30, "token_s": token_s}
        generator = self.config.generator.model_copy(update={"engine_args": speed})
        self.engine = Counted(self.config.model_copy(update={"generator": generator}), 0)
        self.trainer = Noting()
        self.reports: list[Message] = []
        self.news = asyncio.Event()
        self.run = LocalRun(self.config, self._report)

    def _report(self, message: Message) -> None:
        self.reports.append(message)
        self.news.set()

    async def steps(self, number: int) -> None:
        """Until that many more are done."""
        until = self.trainer.version + number
        while not any(isinstance(m, StepMetrics) and m.step + 1 >= until for m in self.reports):
            self.news.clear()
            await self.news.wait()

    async def set(self, *assignments: tuple[str, str]) -> dict[str, str]:
        """Return who refused."""
        changed, values = change(self.config, assignments)
        assert values
        refused = await self.run.set_knobs({key: KnobChange(old, new) for key, (old, new) in values.items()})
        if not refused:
            self.config = changed
        return refused

    def play(self, actions: Callable[[], Awaitable[None]]) -> None:
        """Run until the actions are done and the run has ended."""

        async def go() -> None:
            async with asyncio.timeout(_DEADLINE_S), asyncio.TaskGroup() as tasks:
                running = tasks.create_task(self.run.run(engines=[self.engine], trainer=self.trainer))
                await actions()
                self.run.stop("interrupted")
                await running

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(go())
        finally:
            shutil.rmtree(RunPaths.of(self.config).weights, ignore_errors=True)

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        return {m.role: m.summary for m in self.reports if isinstance(m, Finished)}

    @property
    def asked(self) -> list[int]:
        """Candidates of each group, in order of the groups."""
        return [len(candidates) for _, candidates in sorted(self.engine.asked.items())]


async def _most_groups(scene: Scene, steps: int) -> int:
    """The most that were in the engine at once, looked at often enough while these steps are made."""
    most = 0
    waiting = asyncio.ensure_future(scene.steps(steps))
    while not waiting.done():
        most = max(most, scene.engine.num_groups)
        await asyncio.wait((waiting,), timeout=0.002)
    return most


def test_groups_in_flight_and_the_budget(tmp_path):
    scene = Scene(tmp_path, ("queues.in_flight_groups", "6"), ("allocation.budget", "12"))
    seen: list[int] = []
    numbers: list[int] = []

    async def actions() -> None:
        await scene.steps(2)
        seen.append(await _most_groups(scene, 6))
        assert not await scene.set(("queues.in_flight_groups", "1"), ("allocation.budget", "8"))
        await scene.steps(3)  # what was in flight has ended
        numbers.append(max(scene.engine.asked))
        seen.append(await _most_groups(scene, 4))
        assert not await scene.set(("queues.in_flight_groups", "4"), ("allocation.budget", "16"))
        await scene.steps(2)
        numbers.append(max(scene.engine.asked))
        seen.append(await _most_groups(scene, 6))

    scene.play(actions)
    before, one, later = seen
    assert 3 <= before <= 6
    assert one == 1
    assert 2 <= later <= 4
    budgets = dict(sorted(scene.engine.asked.items()))
    by_group = {group: len(candidates) for group, candidates in budgets.items()}
    first = [number for group, number in by_group.items() if group < 10]
    small = [number for group, number in by_group.items() if numbers[0] - 6 < group <= numbers[0]]
    large = [number for group, number in by_group.items() if group > numbers[1]]
    assert sum(first) / len(first) == pytest.approx(12, abs=1)
    assert set(small) == {8}
    assert sum(large) / len(large) > 14  # the last ones may have been cut off


def test_staleness_holds_for_groups_that_start_from_then_on(tmp_path):
    scene = Scene(tmp_path, ("pipeline.max_staleness", "1"), ("queues.in_flight_groups", "32"))
    changes: list[int] = []

    async def actions() -> None:
        await scene.steps(4)
        assert not await scene.set(("pipeline.max_staleness", "4"))
        changes.append(scene.trainer.version)
        await scene.steps(7)
        assert not await scene.set(("pipeline.max_staleness", "2"))
        changes.append(scene.trainer.version)
        await scene.steps(8)

    scene.play(actions)
    raised, lowered = changes
    bounds = {version: {group.max_staleness for group in groups} for version, groups in scene.trainer.groups.items()}
    found = {
        version: max(staleness(version, group.oldest_version) for group in groups)
        for version, groups in scene.trainer.groups.items()
    }
    assert all(bounds[version] == {1} for version in range(raised))
    assert any(4 in bounds[version] for version in range(raised, lowered))
    assert all(found[version] <= max(bound) for version, bound in bounds.items())
    # Trained on at the learner's door, which the start's bound of 1 would have swept.
    assert max(found.values()) > 1
    # Groups of the old bound are all trained five steps after the last of them can have started.
    assert all(bounds[version] == {2} for version in bounds if version > lowered + 5)
    assert scene.summary["selector"]["rollouts/stale"] == 0


def test_chunks_checkpoints_and_restart_points(tmp_path):
    scene = Scene(tmp_path, ("checkpoint.every_steps", "0"), ("queues.min_chunk", "1"))
    versions: list[int] = []

    async def actions() -> None:
        await scene.steps(3)
        assert scene.trainer.checkpoints == scene.trainer.restart_points == []
        assert not await scene.set(
            ("queues.min_chunk", "3"), ("checkpoint.every_steps", "4"), ("checkpoint.recovery_steps", "3")
        )
        versions.append(scene.trainer.version + 1)  # the open step may have begun under the old settings
        await scene.steps(10)
        versions.append(scene.trainer.version)

    scene.play(actions)
    first, last = versions
    for version in range(first, last):
        *whole, rest = scene.trainer.chunks[version]
        assert all(size >= 3 for size in whole)
        assert sum(scene.trainer.chunks[version]) == 4
        assert rest == 4 - sum(whole)
    due = {f"step_{version}" for version in range(first, last) if not version % 4}
    assert due <= set(scene.trainer.checkpoints)
    assert set(scene.trainer.checkpoints) - due <= {f"step_{scene.trainer.version}", f"step_{first // 4 * 4}"}
    assert {f"step_{version}" for version in range(first, last) if not version % 3 and version % 4} <= set(
        scene.trainer.restart_points
    )


@pytest.mark.parametrize(
    ("key", "text", "why"), [("run.max_wall_s", "0.001", "wall_s"), ("run.max_trained_tokens", "1", "trained_tokens")]
)
def test_limits_end_the_run_with_the_step_that_reaches_them(tmp_path, key, text, why):
    scene = Scene(tmp_path)

    async def actions() -> None:
        await scene.steps(2)
        assert not await scene.set((key, text))
        version = scene.trainer.version
        while not scene.run.states["learner-0"].startswith(("done", "writing", "draining")):
            scene.news.clear()
            await scene.news.wait()
        assert scene.trainer.version <= version + 2

    scene.play(actions)
    assert scene.summary["learner"][f"ended_by/{why}"] == 1.0


def test_the_ledger_says_what_was_set_and_a_refusal_has_its_reason(tmp_path):
    scene = Scene(tmp_path)

    async def actions() -> None:
        await scene.steps(1)
        assert not await scene.set(("queues.in_flight_groups", "3"), ("pipeline.max_staleness", "2"))
        await scene.steps(1)
        refused = await scene.set(("allocation.budget", "auto"))
        assert refused.keys() == {"allocator-0"}
        assert "keeps no statistics" in refused["allocator-0"]

    scene.play(actions)
    root = RunPaths.of(scene.config).root
    found = replay(root, Console())
    assert found.violations == []
    console = Console(record=True, width=300)
    show(found, console, checked=True, as_json=True)
    first = json.loads(console.export_text())["settings"][0]
    assert first["changes"] == {"queues.in_flight_groups": [16, 3], "pipeline.max_staleness": [1, 2]}
    assert 0 < first["at_s"] < _DEADLINE_S


def test_the_account_of_a_live_run_names_who_holds_it_up(tmp_path):
    # Slow enough to be what others wait for, on a busy machine too.
    scene = Scene(tmp_path, ("queues.in_flight_groups", "2"), token_s=0.001)
    verdicts: set[str] = set()
    sentences: set[str] = set()

    async def actions() -> None:
        await scene.steps(1)
        waiting = asyncio.ensure_future(scene.steps(6))
        while not waiting.done():
            found = scene.run.explain()
            verdicts.update(found.root)
            sentences.update(sentence.split()[0] for sentence in found.sentences)
            await asyncio.wait((waiting,), timeout=0.01)

    scene.play(actions)
    assert sentences == {"learner-0", "selector-0", "allocator-0", "generator-0"}
    assert "generator-0" in verdicts  # it decodes for most of the time
