"""The learner on in-memory links with the real tiny policy: versions, the door, skips, stops, checkpoints."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from actors.learner import run
from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY, RunPaths
from darts_async.engines.weights_file import check_weights, model_shapes
from darts_async.errors import ProtocolError, RunFailed
from darts_async.messages import (
    AllocatorHello,
    ChunkNews,
    ChunksDropped,
    FromLearner,
    GeneratorHello,
    GroupSwept,
    Message,
    PolicyApplied,
    PolicyReply,
    PolicyUpdate,
    RoleLost,
    StepDone,
    StepMetrics,
    StreamEnd,
    ToLearner,
    TrainGroup,
    TrajectoryChunk,
    VersionSpan,
    candidate_id,
)
from darts_async.runtime.links import LearnerLinks
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryDealer, MemoryExchange, MemoryStream

pytestmark = pytest.mark.torch

_DEADLINE_S = 30.0
Play = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scene on one kind of event loop."""

    def on_loop(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scene(), _DEADLINE_S))

    return on_loop


@pytest.fixture(scope="module", autouse=True)
def torch_is_imported() -> None:
    """Seconds, outside of any scene's deadline."""
    importlib.import_module("darts_async.engines.trainer")


class _Supervisor:
    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.incarnation = 0
        self.resumed = False
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.is_ready = asyncio.Event()
        self.stop_reason = ""
        self._states: list[str] = []
        self._changed = asyncio.Event()
        self.gauges: dict[str, float] = {}
        self.reports: asyncio.Queue[Message] = asyncio.Queue(1024)
        self.summary: dict[str, float] | None = None

    @property
    def state(self) -> str:
        return self._states[-1]

    @state.setter
    def state(self, text: str) -> None:
        self._states.append(text)
        self._changed.set()

    async def saw(self, text: str) -> None:
        """Wait until some state so far contained this."""
        while not any(text in state for state in self._states):
            self._changed.clear()
            await self._changed.wait()

    async def ready(self) -> None:
        self.is_ready.set()

    async def send(self, message: Message) -> None:
        await self.reports.put(message)

    async def finish(self, summary: dict[str, float]) -> None:
        self.summary = summary

    def stop(self, reason: str = "done") -> None:
        self.stop_reason = reason
        self.stopping.set()


class _Stage:
    """A running learner and the other ends of its links."""

    def __init__(self, config: Config) -> None:
        groups: MemoryStream[ToLearner] = MemoryStream(codec=Codec(ToLearner))
        chunks: MemoryStream[ChunkNews] = MemoryStream(codec=Codec(ChunkNews))
        steps: MemoryStream[FromLearner] = MemoryStream(codec=Codec(FromLearner))
        self.groups, self.steps = groups.sender(), steps.receiver()
        self.policy: MemoryExchange[PolicyUpdate, PolicyReply] = MemoryExchange(
            send=Codec(PolicyUpdate), receive=Codec(PolicyReply)
        )
        self.supervisor = _Supervisor()
        self.paths = RunPaths.of(config)
        self.chunks = chunks.sender()
        self.links = LearnerLinks(
            rank=0,
            groups=groups.receiver(),
            chunks=chunks.receiver(),
            steps=steps.sender(),
            policy=self.policy.hub,
            supervisor=self.supervisor,
        )
        self.task: asyncio.Task[None]
        self.trainer: Any = None

    async def hello(self, name: str) -> MemoryDealer[PolicyReply, PolicyUpdate]:
        """A peer introduces itself on the policy link."""
        dealer = self.policy.dealer(name)
        replica = name.partition("generator-")[2]
        await dealer.send(GeneratorHello(replica=int(replica)) if replica else AllocatorHello())
        return dealer

    async def step_done(self) -> StepDone:
        message = await self.steps.recv()
        assert isinstance(message, StepDone), message
        return message

    async def metrics(self) -> StepMetrics:
        message = await self.supervisor.reports.get()
        assert isinstance(message, StepMetrics), message
        return message

    async def finish(self, reason: str = "done") -> dict[str, float]:
        self.supervisor.stop(reason)
        await self.task
        assert self.supervisor.summary is not None
        return self.supervisor.summary


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    made = Config.model_validate(
        {
            "run": {"name": "learner", "dir": str(tmp_path), "steps": 2},
            "group": {"size": 2, "keep_longest": 0, "groups_per_step": 2},
            "pipeline": {"mode": "async", "max_staleness": 1},
            "learner": {"lr": 1e-3, "max_bad_steps": 2},
            "generator": {"engine": "sim"},  # the groups below come with made-up log-probs
            "launch": {"drain_timeout_s": 0.2},
        }
    )
    yield made
    shutil.rmtree(RunPaths.of(made).weights, ignore_errors=True)


def _with(config: Config, **sections: dict[str, Any]) -> Config:
    return Config.model_validate(config.model_dump() | {k: config.model_dump()[k] | v for k, v in sections.items()})


@contextlib.asynccontextmanager
async def _staged(config: Config) -> AsyncIterator[_Stage]:
    from darts_async.engines.trainer import load_trainer

    stage = _Stage(config)
    stage.trainer = load_trainer(config)
    stage.task = asyncio.create_task(run(stage.links, config, stage.trainer))
    try:
        ready = asyncio.create_task(stage.supervisor.is_ready.wait())
        await asyncio.wait((stage.task, ready), return_when=asyncio.FIRST_COMPLETED)
        if stage.task.done():
            await stage.task
        yield stage
    finally:
        stage.task.cancel()
        await asyncio.gather(stage.task, return_exceptions=True)


def _group(
    group_id: int, step: int, *, version: int | None = None, rewards: tuple[float, float] = (1, 0), length: int = 6
) -> TrainGroup:
    rng = np.random.default_rng(group_id)
    spans = (VersionSpan(step if version is None else version, 0),)
    return TrainGroup(
        group_id=group_id,
        prompt_id=f"p{group_id}",
        step=step,
        prompt_tokens=np.arange(4, 9, dtype=np.int32),
        candidate_ids=(candidate_id(group_id, 0), candidate_id(group_id, 1)),
        lengths=np.array([length, 4], dtype=np.int32),
        response_tokens=rng.integers(4, 200, length + 4).astype(np.int32),
        behaviour_logprobs=np.full(length + 4, -2.0, dtype=np.float32),
        version_spans=(spans, spans),
        rewards=np.array(rewards, dtype=np.float32),
        baseline_rewards=np.array(rewards, dtype=np.float32),
        baseline_lengths=np.array([length, 4], dtype=np.int32),
        capped=(False, False),
    )


async def _torch_threads_end() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("torch"):
            await asyncio.to_thread(thread.join)


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    return error


def _loaded(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("mode", ["sync", "stream", "async"])
def test_versions_steps_and_the_last_checkpoint(play: Play, config: Config, mode: str) -> None:
    config = _with(config, pipeline={"mode": mode, "max_staleness": 1 if mode == "async" else 0})

    async def scene() -> None:
        async with _staged(config) as stage:
            generator = await stage.hello("generator-0")
            assert (await generator.recv()).version == 0  # at once: the model folder
            allocator = await stage.hello("allocator")
            first = await allocator.recv()
            assert (first.version, first.weights) == (0, "")
            for step in (0, 1):
                for index in (0, 1):
                    await stage.groups.send(_group(2 * step + index, step))
                done = await stage.step_done()
                assert (done.version, done.group_ids) == (step + 1, (2 * step, 2 * step + 1))
                for peer in (generator, allocator):
                    update = await peer.recv()
                    assert update.version == step + 1
                check_weights(Path(update.weights), model_shapes(QUICKSTART_POLICY), tied=False)
                report = await stage.metrics()
                assert report.step == step
                values = report.values
                assert values["policy_version"] == step + 1
                assert values["learner/tokens"] == 20 and values["staleness/mean"] == values["staleness/max"] == 0
                assert values["reward/kept"] == 0.5 and values["response_length/kept"] == 5
                assert values["learner/grad_norm"] > 0 and values["learner/lr"] == 1e-3
                assert values["learner/wait_s"] + values["learner/forward_backward_s"] <= values["learner/step_s"]
                assert values["learner/logprob_diff_max"] > values["learner/logprob_diff_mean"] > 0
            # a late joiner reads the last version, and nothing of the ones before
            late = await stage.hello("generator-1")
            assert (await late.recv()).version == 2 and late.stats.depth == 0
            await stage.supervisor.saw("done")  # the checkpoint does not wait for the stop
            checkpoint = stage.paths.checkpoints / "step_2"
            saved, published = _loaded(checkpoint / "model.safetensors"), _loaded(Path(update.weights))
            assert all((saved[name] == published[name]).all() for name in published)
            summary = await stage.finish()
            assert isinstance(await stage.steps.recv(), StreamEnd)
            assert summary["policy_version"] == summary["steps"] == 2
            assert summary["skipped_steps"] == summary["staleness/max"] == 0
            assert summary["logprob_parity/max"] >= summary["logprob_parity/mean"] > 0
            assert 0 <= summary["idle_ratio"] <= 1
            assert summary["wall_s"] == pytest.approx(summary["wait_s"] + summary["busy_s"])
            assert [path.name for path in stage.paths.checkpoints.iterdir()] == ["step_2"]

    play(scene)


def test_sync_and_stream_make_the_same_weights(play: Play, config: Config) -> None:
    weights: list[dict[str, Any]] = []
    for mode in ("sync", "stream"):

        async def scene(mode: str = mode) -> None:
            async with _staged(_with(config, pipeline={"mode": mode, "max_staleness": 0})) as stage:
                await stage.groups.send(_group(0, 0))
                await stage.groups.send(_group(1, 0, length=9))
                await stage.step_done()
                weights.append(_loaded(stage.paths.weights / "v000001.safetensors"))

        play(scene)
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(tensor.numpy(), weights[1][name].numpy(), atol=2e-5)


def test_groups_that_come_again_change_nothing(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(_with(config, run={"steps": 3})) as stage:
            for group_id in (0, 0, 1, 0):
                await stage.groups.send(_group(group_id, 0))
            assert (await stage.step_done()).group_ids == (0, 1)
            for group_id in (1, 2, 0, 2, 3):
                await stage.groups.send(_group(group_id, group_id // 2, version=0))
            assert (await stage.step_done()).group_ids == (2, 3)
            # Refused: said again, for a selector that has not heard of it, and counted once.
            for _ in range(3):
                await stage.groups.send(_group(4, 2, version=0))
                swept = await stage.steps.recv()
                assert isinstance(swept, GroupSwept) and (swept.group_id, swept.staleness) == (4, 2)
            for group_id in (5, 0, 3, 6):
                await stage.groups.send(_group(group_id, group_id // 2, version=1))
            assert (await stage.step_done()).group_ids == (5, 6)
            assert (await stage.finish())["swept_groups"] == 1

    play(scene)


def test_the_door_sweeps_what_is_too_stale(play: Play, config: Config) -> None:
    async def scene() -> None:
        learner = {"shadow": [{"loss": "gspo"}], "shadow_every": 2}
        async with _staged(_with(config, run={"steps": 3}, learner=learner)) as stage:
            for group_id in (0, 1):
                await stage.groups.send(_group(group_id, 0))
            await stage.step_done()
            for group_id in (2, 3):
                await stage.groups.send(_group(group_id, 1, version=0))  # one version old: allowed
            assert (await stage.step_done()).group_ids == (2, 3)
            await stage.groups.send(_group(4, 2, version=0))  # two versions old: swept, its slot is free again
            swept = await stage.steps.recv()
            assert isinstance(swept, GroupSwept)
            assert (swept.group_id, swept.staleness) == (4, 2)
            await stage.groups.send(_group(5, 2, version=1))
            await stage.groups.send(_group(6, 3, version=2))  # planned before the sweep was known: moves up
            assert (await stage.step_done()).group_ids == (5, 6)
            values = [(await stage.metrics()).values for _ in range(3)]
            assert [v["staleness/max"] for v in values] == [0, 1, 1]
            assert [v["staleness/mean"] for v in values] == [0, 1, 0.5]
            ages = [{name: v[name] for name in v if re.fullmatch("age/./tokens", name)} for v in values]
            assert ages == [{"age/0/tokens": 20}, {"age/1/tokens": 20}, {"age/0/tokens": 10, "age/1/tokens": 10}]
            compared = ["shadow/gspo+none/cosine" in v for v in values]
            assert compared == [True, False, True] and all(0 < v["shadow/gspo+none/ess"] <= 1 for v in values)
            summary = await stage.finish()
            assert summary["swept_groups"] == 1 and summary["staleness/max"] == 1
            assert summary["staleness/mean"] == pytest.approx(30 / 60)

    play(scene)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (_group(9, 1, version=0), "group 9 of step 1 where step 0 to 0 was due"),
        (_group(9, 0, version=1), "tokens of version 1, the latest is 0"),
        (StreamEnd(role="selector", rank=0), "launch.drain_timeout_s = 0.2"),
    ],
    ids=["other step", "future tokens", "early end"],
)
def test_a_broken_contract_ends_the_role(play: Play, config: Config, bad: Any, text: str) -> None:
    async def scene() -> None:
        async with _staged(config) as stage:
            await stage.groups.send(bad)
            with pytest.raises(BaseExceptionGroup) as caught:
                await stage.task
            error = _leaf(caught.value)
            assert isinstance(error, ProtocolError) and text in str(error)

    play(scene)


def test_a_gross_mismatch_in_the_first_step_ends_the_run_before_its_update(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(_with(config, generator={"engine": "vllm"}, learner={"max_parity_diff": 0.5})) as stage:
            for group_id in (0, 1):
                await stage.groups.send(_group(group_id, 0))
            with pytest.raises(BaseExceptionGroup) as caught:
                await stage.task
            error = _leaf(caught.value)
            assert isinstance(error, RunFailed)
            for part in ("learner: ", "same 20 tokens", "learner.max_parity_diff = 0.5", "darts-async doctor"):
                assert part in str(error)
            assert stage.trainer.version == 0
            assert not stage.paths.weights.exists() or not list(stage.paths.weights.glob("*.safetensors"))
            assert not stage.paths.checkpoints.exists()

    play(scene)


def test_a_skipped_step_is_still_a_version(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(config) as stage:
            await stage.groups.send(_group(0, 0))
            await stage.groups.send(_group(1, 0, rewards=(float("nan"), 0)))
            assert (await stage.step_done()).version == 1
            source = _loaded(QUICKSTART_POLICY / "model.safetensors")
            published = _loaded(stage.paths.weights / "v000001.safetensors")
            assert all((source[name] == published[name]).all() for name in source)
            values = (await stage.metrics()).values
            assert values["learner/skipped_steps"] == 1
            assert "learner/loss" not in values  # NaN is not a measurement
            for group_id in (2, 3):
                await stage.groups.send(_group(group_id, 1))
            assert (await stage.step_done()).version == 2
            summary = await stage.finish()
            assert summary["skipped_steps"] == 1 and summary["steps"] == 2

    play(scene)


def test_bad_steps_in_a_row_end_the_run_and_keep_the_weights(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(_with(config, run={"steps": 5})) as stage:
            for step in (0, 1, 2):
                for group_id in (2 * step, 2 * step + 1):
                    reward = 1.0 if step == 0 else float("nan")
                    await stage.groups.send(_group(group_id, step, rewards=(reward, 0)))
            with pytest.raises(BaseExceptionGroup) as caught:
                await stage.task
            assert isinstance(_leaf(caught.value), RunFailed)
            assert [path.name for path in stage.paths.checkpoints.iterdir()] == ["step_2"]

    play(scene)


def test_a_stop_abandons_the_step_and_keeps_the_version(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(config) as stage:
            for group_id in (0, 1):
                await stage.groups.send(_group(group_id, 0))
            assert (await stage.step_done()).version == 1
            await stage.groups.send(_group(2, 1))  # half of step 1
            await stage.supervisor.saw("waiting for groups (1/2)")
            summary = await stage.finish("interrupted")
            assert summary["policy_version"] == summary["steps"] == 1
            assert isinstance(await stage.steps.recv(), StreamEnd)
            assert not stage.steps.stats.depth
            saved = _loaded(stage.paths.checkpoints / "step_1" / "model.safetensors")
            published = _loaded(stage.paths.weights / "v000001.safetensors")
            assert all((saved[name] == published[name]).all() for name in saved)

    play(scene)


def test_a_stop_in_the_middle_of_the_gradients(play: Play, config: Config) -> None:
    """Only the running micro-batch is waited for; the others are never started."""
    config = _with(config, learner={"micro_batch_tokens": 512}, group={"groups_per_step": 8})

    async def scene() -> None:
        async with _staged(config) as stage:
            for group_id in range(8):
                await stage.groups.send(_group(group_id, 0, length=500))
            await stage.supervisor.saw("training step 1")
            summary = await stage.finish("interrupted")
            assert summary["policy_version"] == 0
            assert isinstance(await stage.steps.recv(), StreamEnd)
            await _torch_threads_end()
            assert stage.trainer._sums.tokens < 8 * 504

    play(scene)


def test_loads_by_itself_and_clears_what_a_killed_run_left(play: Play, config: Config) -> None:
    async def scene() -> None:
        stage = _Stage(config)
        stage.paths.weights.mkdir(parents=True)
        (stage.paths.weights / "v000007.safetensors").write_bytes(b"old")
        stage.task = asyncio.create_task(run(stage.links, config))
        await stage.supervisor.is_ready.wait()
        assert not list(stage.paths.weights.iterdir())
        for group_id in (0, 1):
            await stage.groups.send(_group(group_id, 0))
        assert (await stage.step_done()).version == 1
        await stage.finish()

    play(scene)


def test_a_stop_while_loading(play: Play, config: Config) -> None:
    async def scene() -> None:
        stage = _Stage(config)
        stage.supervisor.stop("interrupted")
        await run(stage.links, config)
        assert stage.supervisor.summary is not None and stage.supervisor.summary["policy_version"] == 0
        assert not stage.supervisor.is_ready.is_set()
        await _torch_threads_end()  # a process would leave here; transformers cannot load twice at once

    play(scene)


def test_a_stop_before_the_first_step_leaves_no_checkpoint(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(config) as stage:
            summary = await stage.finish("interrupted")
            assert summary["policy_version"] == 0 and "idle_ratio" not in summary
            assert not stage.paths.checkpoints.exists()

    play(scene)


def test_old_versions_go_once_every_replica_has_moved_on(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(_with(config, run={"steps": 3}, generator={"replicas": 2})) as stage:
            peers = [await stage.hello(f"generator-{replica}") for replica in (0, 1)]
            for step in (0, 1, 2):
                for group_id in (2 * step, 2 * step + 1):
                    await stage.groups.send(_group(group_id, step))
                await stage.step_done()
            files = stage.paths.weights
            assert sorted(path.name[:7] for path in files.iterdir()) == ["v000001", "v000002", "v000003"]
            for replica, version in ((0, 3), (1, 2)):
                await peers[replica].send(PolicyApplied(replica=replica, version=version, update_ms=1.0))
            # a hello behind the confirmations: its answer means that they were dealt with
            await (await stage.hello("allocator")).recv()
            assert sorted(path.name[:7] for path in files.iterdir()) == ["v000002", "v000003"]
            await stage.finish()

    play(scene)


def test_a_peer_that_is_gone_does_not_stop_training(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(config) as stage:
            generator = await stage.hello("generator-0")
            await generator.recv()
            await generator.close()
            for group_id in range(4):
                await stage.groups.send(_group(group_id, group_id // 2))
            assert [(await stage.step_done()).version for _ in range(2)] == [1, 2]
            await stage.finish()

    play(scene)


def test_periodic_checkpoints_are_rotated_and_the_last_is_kept(play: Play, config: Config) -> None:
    async def scene() -> None:
        async with _staged(_with(config, run={"steps": 5}, checkpoint={"every_steps": 1, "keep": 2})) as stage:
            for group_id in range(10):
                await stage.groups.send(_group(group_id, group_id // 2))
            for _ in range(5):
                await stage.step_done()
            await stage.finish()
            assert sorted(path.name for path in stage.paths.checkpoints.iterdir()) == ["step_4", "step_5"]

    play(scene)


def test_the_event_loop_runs_on_while_torch_works(play: Play, config: Config) -> None:
    """A step of half a second or more must not hold the loop: heartbeats and policy messages go on."""
    lags: list[float] = []

    async def scene() -> None:
        async with _staged(_with(config, run={"steps": 1})) as stage:

            async def measure() -> None:
                while True:
                    due = time.monotonic() + 0.005
                    await asyncio.sleep(0.005)
                    lags.append(time.monotonic() - due)

            measuring = asyncio.create_task(measure())
            for group_id in (0, 1):
                await stage.groups.send(_group(group_id, 0, length=1500))
            await stage.step_done()
            measuring.cancel()
            step_s = (await stage.metrics()).values["learner/step_s"]
            # with torch on the loop there would be hardly a sample, and one as late as the step is long
            assert len(lags) > 10 and np.median(lags) < 0.05 < step_s
            assert max(lags) < 0.5 * step_s
            await stage.finish()

    play(scene)


def _chunk(group: TrainGroup, start: int, stop: int) -> TrajectoryChunk:
    """Of the group's first response."""
    return TrajectoryChunk(
        candidate_id=group.candidate_ids[0],
        start=start,
        prompt_tokens=group.prompt_tokens if start == 0 else group.prompt_tokens[:0],
        response_tokens=group.response_tokens[start:stop],
    )


async def _until(done: Callable[[], bool]) -> None:
    """Let the loop turn until something in the torch thread, which has no event, is the case."""
    while not done():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def test_chunks_are_scored_while_the_learner_waits_and_change_no_weight(play: Play, config: Config) -> None:
    weights: list[dict[str, Any]] = []
    figures: list[list[float]] = []
    for chunk_tokens in (8, 0):
        streaming = _with(
            config, queues={"chunk_tokens": chunk_tokens}, learner={"kl_weight": 0.1, "updates_per_step": 2}
        )

        async def scene(streaming: Config = streaming, streams: bool = chunk_tokens > 0) -> None:
            figures.append([])
            async with _staged(streaming) as stage:
                groups = [_group(group_id, group_id // 2, length=40) for group_id in range(4)]
                lost = _group(9, 9, length=40)
                frozen = stage.trainer.frozen
                if streams:
                    for group in (groups[0], groups[2], lost):
                        await stage.chunks.send(_chunk(group, 0, 16))
                    token_bytes = frozen.reference._scorer.token_bytes
                    await _until(lambda: frozen.cache_bytes == 2 * 3 * 20 * token_bytes)  # 5 of the prompt, less one
                    await stage.groups.send(ChunksDropped(candidate_ids=(lost.candidate_ids[0],)))
                    await _until(lambda: frozen.cache_bytes == 2 * 2 * 20 * token_bytes)
                    await stage.chunks.send(_chunk(groups[0], 16, 32))
                    await _until(lambda: frozen.cache_bytes == 2 * (20 + 36) * token_bytes)
                for step in (0, 1):
                    for group in groups[2 * step : 2 * step + 2]:
                        await stage.groups.send(group)
                    await stage.step_done()
                    values = (await stage.metrics()).values
                    figures[-1] += [values["learner/loss"], values["learner/grad_norm"]]
                    assert values["learner/score_ready_ms"] > 0
                    if streams:
                        # In both steps the reference has its part; of the proximal policies, each its own step's.
                        first = {0: 2 * 32, 1: 2 * 16}[step]
                        assert values["learner/cached_share"] == pytest.approx(first / (2 * 88))
                        assert values["learner/chunk_tokens"] == {0: 3 * 16 + 16, 1: 0}[step]
                        assert values["learner/broken_streams"] == values["learner/uncached_responses"] == 0
                        if step == 0:  # made again under the new proximal policy
                            await _until(lambda: frozen.cache_bytes == 2 * 20 * token_bytes)
                weights.append(_loaded(stage.paths.weights / "v000002.safetensors"))
                await stage.finish()
                assert frozen.cache_bytes == 0

        play(scene)
    source = _loaded(QUICKSTART_POLICY / "model.safetensors")
    moved, apart = (
        sum(float(((weights[0][name] - other[name]) ** 2).sum()) ** 0.5 for name in other)
        for other in (source, weights[1])
    )
    # AdamW makes much of the rounding of a gradient near 0; the gradients themselves are compared in `test_frozen`.
    assert apart < 1e-2 * moved
    for on, off in zip(*figures, strict=True):
        assert on == pytest.approx(off, rel=1e-3)


def test_min_chunk_groups_are_waited_for_and_fewer_at_the_end_of_a_step(play: Play, config: Config) -> None:
    config = _with(config, run={"steps": 1}, group={"groups_per_step": 3}, queues={"min_chunk": 2})

    async def scene() -> None:
        async with _staged(config) as stage:
            await stage.groups.send(_group(0, 0))
            await stage.supervisor.saw("waiting for groups (1/3)")
            assert stage.trainer._sums.tokens == 0
            await stage.groups.send(_group(1, 0))
            await stage.supervisor.saw("waiting for groups (2/3)")
            assert stage.trainer._sums.tokens == 20
            await stage.groups.send(_group(2, 0))
            assert (await stage.step_done()).group_ids == (0, 1, 2)
            await stage.finish()

    play(scene)
