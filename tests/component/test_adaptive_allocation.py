"""Adaptive redundancy in the actors: an allocator with signal and budget, a generator that measures, whole runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from actors.allocator import run
from actors.local import LocalRun
from darts_async.algorithms.batch_allocation import AllocationRules, BatchAllocation, PromptKey
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.config import Config, load_config
from darts_async.config.paths import RunPaths
from darts_async.engines.sim_engine import SimEngine
from darts_async.engines.token_sums import TokenSums
from darts_async.messages import (
    AllocatorHello,
    Credits,
    DispatchState,
    Finished,
    FromAllocator,
    FromAllocatorToSelector,
    FromGenerator,
    GroupComplete,
    GroupOutcome,
    GroupPlan,
    LatencySamples,
    Message,
    ObservedLength,
    PlanAccepted,
    PlanReply,
    PolicyReply,
    PolicyUpdate,
    RoleLost,
    RunComplete,
    TrainGroup,
)
from darts_async.runtime.allocator_file import load_allocator_state
from darts_async.runtime.links import AllocatorLinks
from darts_async.tasks.prompt_set import load_prompts
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange

_DEADLINE_S = 30.0
PER_STEP = 4


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def on_loop(scene: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scene, _DEADLINE_S))

    return on_loop


class _Supervisor:
    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.incarnation = 0
        self.resumed = False
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.stop_reason = ""
        self.state = ""
        self.gauges: dict[str, float] = {}
        self.reports: asyncio.Queue[Message] = asyncio.Queue()

    async def ready(self) -> None:
        pass

    async def send(self, message: Message) -> None:
        await self.reports.put(message)

    async def finish(self, summary: dict[str, float]) -> None:
        pass


class _Peers:
    """The other ends of the allocator's links: everything is accepted, groups end as the test says."""

    def __init__(self, config: Config) -> None:
        plans: MemoryExchange[PlanReply, FromAllocatorToSelector] = MemoryExchange(
            send=Codec(PlanReply), receive=Codec(FromAllocatorToSelector)
        )
        policy: MemoryExchange[PolicyUpdate, PolicyReply] = MemoryExchange(
            send=Codec(PolicyUpdate), receive=Codec(PolicyReply)
        )
        rollouts: MemoryExchange[FromAllocator, FromGenerator] = MemoryExchange(
            send=Codec(FromAllocator), receive=Codec(FromGenerator)
        )
        self.config = config
        self.supervisor = _Supervisor()
        self.plans, self.policy = plans.hub, policy.hub
        self.generator = rollouts.dealer("generator-0")
        self.links = AllocatorLinks(
            rank=0,
            plans=plans.dealer("allocator-0"),
            rollouts=rollouts.hub,
            policy=policy.dealer("allocator-0"),
            supervisor=self.supervisor,
        )

    async def batch(self, num: int = PER_STEP) -> list[GroupPlan]:
        """Accept the plans of a batch and take their requests."""
        taken = []
        for _ in range(num):
            _, plan = await self.plans.recv()
            await self.reply(PlanAccepted(group_id=plan.group_id))
            for _ in plan.candidate_ids:
                await self.generator.recv()
            taken.append(plan)
        return taken

    async def reply(self, message: PlanReply) -> None:
        await self.plans.send("allocator-0", message)

    async def trained(self, plan: GroupPlan, *lengths: int) -> None:
        await self.reply(GroupComplete(group_id=plan.group_id))
        observed = tuple(ObservedLength(length, False) for length in lengths)
        await self.reply(
            GroupOutcome(group_id=plan.group_id, prompt_id=plan.prompt_id, outcome="trained", lengths=observed)
        )

    async def publish(self, version: int) -> None:
        await self.policy.send("allocator-0", PolicyUpdate(version=version, weights=f"/v{version}"))

    def visits(self, num: int) -> list[int]:
        """Prompts in the order they are drawn."""
        order = PromptOrder(len(load_prompts(self.config).train), self.config.run.seed)
        return [order.prompt_of(order.next()) for _ in range(num)]


def _config(tmp_path: Path, **overrides: str) -> Config:
    keys = {
        "run.dir": str(tmp_path),
        "run.name": "r",
        "run.steps": "3",
        "eval.prompts": "0",
        "group.groups_per_step": str(PER_STEP),
        "pipeline.mode": "stream",
    }
    return load_config(None, list((keys | {k.replace("__", "."): v for k, v in overrides.items()}).items()))


@asynccontextmanager
async def _allocator(config: Config) -> AsyncIterator[_Peers]:
    peers = _Peers(config)
    task = asyncio.create_task(run(peers.links, config))
    try:
        await peers.policy.recv()
        _, hello = await peers.plans.recv()
        assert isinstance(hello, AllocatorHello)
        await peers.reply(DispatchState(number=hello.number, first_group=0, next_draw=0))
        await peers.generator.send(Credits(replica=0, granted_total=10_000))
        yield peers
        peers.supervisor.stopping.set()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_spread_prompts_get_more_and_the_mean_is_the_budget(play, tmp_path):
    config = _config(tmp_path, allocation__signal="std", allocation__budget="11.5", checkpoint__every_steps="1")

    async def scene() -> None:
        async with _allocator(config) as peers:
            first = await peers.batch()
            assert sorted(len(plan.candidate_ids) for plan in first) == [11, 11, 12, 12]  # nothing is known
            await peers.publish(1)  # before the outcomes: the next batch waits for all of them
            for plan in first:
                await peers.trained(plan, 100, 300) if plan is first[2] else await peers.trained(plan, 100, 102)
            second = await peers.batch()
            assert sum(len(plan.candidate_ids) for plan in second) == 46
            assert all(plan.dispatch_version == 1 for plan in second)
            assert peers.supervisor.gauges["allocation/budget"] == 11.5
            assert peers.supervisor.gauges["allocation/candidates_mean"] == 11.5
            assert peers.supervisor.gauges["allocation/clamped"] == 0
            for plan in second:
                await peers.trained(plan, 50, 60)
            await peers.publish(2)
            third = await peers.batch()
            for plan in third:
                await peers.trained(plan, 50, 60)
            await peers.publish(3)
            assert isinstance(await peers.supervisor.reports.get(), RunComplete)
        folder = RunPaths.of(config).allocator
        kept = sorted(int(file.stem.removeprefix("step_")) for file in folder.iterdir())
        assert 3 in kept and len(kept) <= config.checkpoint.keep + 1
        state = load_allocator_state(folder, 3)
        prompts = load_prompts(config).train
        restored = BatchAllocation(
            AllocationRules.of(config), [PromptKey(p.prompt_id, p.stratum) for p in prompts], int
        )
        restored.restore(state)
        # Known from the file: the third prompt of the first batch spreads by 100 tokens, the second batch by 5.
        wide = peers.visits(PER_STEP)[2]
        indices = iter([wide, *peers.visits(2 * PER_STEP)[PER_STEP : PER_STEP + 3]])
        numbers = [restored.draw(lambda: next(indices)).num_candidates for _ in range(PER_STEP)]
        assert numbers[0] == 16
        assert max(numbers[1:]) <= 11

    play(scene())


def test_saturated_tails_are_pruned(play, tmp_path):
    config = _config(
        tmp_path,
        selection__rule="dual_end",
        allocation__signal="mean_2std",
        allocation__budget="16",
        allocation__prune_fraction="0.5",
    )

    async def scene() -> None:
        async with _allocator(config) as peers:
            first = await peers.batch()
            assert {plan.rule for plan in first} == {"dual_end"}
            for plan in first:
                await peers.trained(plan, 100, 120)
            await peers.publish(1)
            second = await peers.batch()
            # All 16 of 16; half of four prompts, and the two of the first batch that nothing was known to prune by.
            assert [len(plan.candidate_ids) for plan in second] == [16] * 4
            assert sorted(plan.rule for plan in second) == ["shortest"] * 4

    play(scene())


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 8), (0.0, 16)], ids=["proportional", "flat"])
def test_the_automatic_budget_listens_to_the_generators(play, tmp_path, slope, expected):
    config = _config(tmp_path, selection__rule="dual_end", allocation__budget="auto", generator__max_num_seqs="1024")

    async def scene() -> None:
        async with _allocator(config) as peers:
            levels = np.tile(np.array([1, 2, 4, 8, 16, 32, 64, 128], dtype=np.int32), 8)
            seconds = (0.001 * levels**slope).astype(np.float32)
            await peers.generator.send(LatencySamples(replica=0, concurrency=levels, per_token_s=seconds))
            rng = np.random.default_rng(1)
            first = await peers.batch()
            assert [len(plan.candidate_ids) for plan in first] == [12] * 4
            for plan in first:
                await peers.trained(plan, *np.round(200 * np.exp(0.2 * rng.standard_normal(12))).astype(int).tolist())
            await peers.publish(1)
            assert [len(plan.candidate_ids) for plan in await peers.batch()] == [expected] * 4
            assert peers.supervisor.gauges["allocation/budget"] == expected

    play(scene())


@dataclass
class _Stats:
    version: int
    skipped: bool = False
    grad_norm: float = 0.0
    lr: float = 0.0
    sums: TokenSums = field(default_factory=TokenSums)
    observed: dict[str, float] = field(default_factory=dict)


class _NoTrainer:
    """Counts groups; publishes empty files."""

    def __init__(self) -> None:
        self.version = self.num_groups = 0

    def accumulate(self, groups: list[TrainGroup]) -> TokenSums:
        self.num_groups += len(groups)
        return TokenSums()

    def apply_step(self) -> _Stats:
        self.version += 1
        return _Stats(self.version)

    def abandon(self) -> None:
        pass

    def publish(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)


def test_a_whole_run_with_everything_adaptive(tmp_path):
    config = load_config(
        None,
        [
            ("run.dir", str(tmp_path)),
            ("run.name", "r"),
            ("run.steps", "20"),
            ("eval.prompts", "0"),
            ("group.groups_per_step", "4"),
            ("allocation.signal", "mean_2std"),
            ("allocation.budget", "auto"),
            ("generator.engine", "sim"),
            ("checkpoint.every_steps", "10"),
        ],
    )
    arguments = {"mean_tokens": 60, "token_s": 0.0008, "sigma": 0.3}
    generator = config.generator.model_copy(update={"engine_args": arguments})
    engine = SimEngine(config.model_copy(update={"generator": generator}), 0)
    trainer, reports = _NoTrainer(), []

    async def go() -> dict[str, float]:
        local = LocalRun(config, reports.append)
        await asyncio.wait_for(local.run(engines=[engine], trainer=trainer), _DEADLINE_S)
        return local.gauges

    gauges = asyncio.run(go())
    assert trainer.num_groups == 20 * 4
    assert any(isinstance(report, RunComplete) for report in reports)
    assert {report.role for report in reports if isinstance(report, Finished)} == {
        "allocator",
        "generator",
        "selector",
        "learner",
    }
    assert 8 <= gauges["allocation/budget"] <= 16  # where it ends depends on this machine's latencies
    assert gauges["allocation/candidates_mean"] == gauges["allocation/budget"]
    assert gauges["allocation/clamped"] == 0
    state = load_allocator_state(RunPaths.of(config).allocator, 20)
    assert state["version"] == 20
    assert len(state["statistics"]["prompts"]) > 20
