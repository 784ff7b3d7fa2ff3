"""A learner that is killed at any point and started anew on the same folder: bit for bit the weights of one that was
not, nothing trained twice, every step told once."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from actors.learner import run
from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.errors import RunFailed
from darts_async.messages import (
    ChunkNews,
    FromLearner,
    GeneratorHello,
    LearnerState,
    Message,
    PolicyReply,
    PolicyUpdate,
    RoleLost,
    StateTaken,
    StepDone,
    StepMetrics,
    ToLearner,
    TrainGroup,
    VersionSpan,
    candidate_id,
)
from darts_async.runtime.links import LearnerLinks
from darts_async.runtime.waiting import Look, nothing
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange, MemoryStream

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]
STEPS, PER_STEP = 4, 2


@pytest.fixture(scope="module", autouse=True)
def torch_is_imported() -> None:
    importlib.import_module("darts_async.engines.trainer")


class _Supervisor:
    def __init__(self, incarnation: int, *, resumed: bool = False) -> None:
        self.stopping = asyncio.Event()
        self.stop_reason = ""
        self.state = ""
        self.gauges: dict[str, float] = {}
        self.incarnation = incarnation
        self.resumed = resumed
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.look: Look = nothing
        self.knobs = None
        self.reports: list[StepMetrics] = []
        self.summary: dict[str, float] = {}

    async def ready(self) -> None:
        """There is nobody to wait for."""

    async def send(self, message: Message) -> None:
        assert isinstance(message, StepMetrics)
        self.reports.append(message)

    async def finish(self, summary: dict[str, float]) -> None:
        self.summary = summary


class _Start:
    """One start of the learner, with links of its own: what was on its way to the last one is lost."""

    def __init__(self, config: Config, incarnation: int, *, resumed: bool = False) -> None:
        from darts_async.engines.trainer import load_trainer

        groups: MemoryStream[ToLearner] = MemoryStream(codec=Codec(ToLearner))
        chunks: MemoryStream[ChunkNews] = MemoryStream(codec=Codec(ChunkNews))
        steps: MemoryStream[FromLearner] = MemoryStream(codec=Codec(FromLearner))
        self.policy: MemoryExchange[PolicyUpdate, PolicyReply] = MemoryExchange(
            send=Codec(PolicyUpdate), receive=Codec(PolicyReply)
        )
        self.groups, self.steps = groups.sender(), steps.receiver()
        self.supervisor = _Supervisor(incarnation, resumed=resumed)
        self.trainer: Any = load_trainer(config)
        self.trained: list[list[int]] = []
        accumulate = self.trainer.accumulate

        def noted(part: list[TrainGroup]) -> Any:
            self.trained.append([group.group_id for group in part])
            return accumulate(part)

        self.trainer.accumulate = noted
        links = LearnerLinks(
            rank=0,
            groups=groups.receiver(),
            chunks=chunks.receiver(),
            steps=steps.sender(),
            policy=self.policy.hub,
            supervisor=self.supervisor,
        )
        self.task = asyncio.create_task(run(links, config, self.trainer))

    async def hear(self) -> FromLearner:
        """The learner's next message; its failure if it has failed."""
        heard = asyncio.ensure_future(self.steps.recv())
        await asyncio.wait((heard, self.task), return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            heard.cancel()
            await self.task
        return await heard

    async def safe(self, num_groups: int) -> None:
        """Wait until so many groups of the open step have gradients: they are in the spool by then."""
        async with asyncio.timeout(30):
            trainer = self.trainer
            while len(trainer._updates) * trainer._share_groups + trainer._num_groups != num_groups:  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # the torch thread has no event

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def finish(self, reason: str = "done") -> dict[str, float]:
        self.supervisor.stop_reason = reason
        self.supervisor.stopping.set()
        await self.task
        return self.supervisor.summary


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    made = _config(tmp_path, "run")
    yield made
    for name in ("run", "unbroken"):
        shutil.rmtree(RunPaths.of(_config(tmp_path, name)).weights, ignore_errors=True)


def _config(folder: Path, name: str, **sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "run": {"name": name, "dir": str(folder), "steps": STEPS},
        "group": {"size": 2, "keep_longest": 0, "groups_per_step": PER_STEP},
        "pipeline": {"mode": "stream"},
        "learner": {"lr": 1e-3},
        "generator": {"engine": "sim"},
        "checkpoint": {"recovery_steps": 2},
        "launch": {"drain_timeout_s": 0.2},
    }
    return Config.model_validate({key: base.get(key, {}) | sections.get(key, {}) for key in {*base, *sections}})


def _group(group_id: int, epoch: int = 0) -> TrainGroup:
    rng, step = np.random.default_rng(group_id), group_id // PER_STEP
    spans = (VersionSpan(step, 0),)
    return TrainGroup(
        group_id=group_id,
        prompt_id=f"p{group_id}",
        step=step,
        prompt_tokens=np.arange(4, 9, dtype=np.int32),
        candidate_ids=(candidate_id(group_id, 0), candidate_id(group_id, 1)),
        lengths=np.array([6, 4], dtype=np.int32),
        response_tokens=rng.integers(4, 200, 10).astype(np.int32),
        behaviour_logprobs=np.full(10, -2.0, dtype=np.float32),
        version_spans=(spans, spans),
        rewards=np.array([1, 0], dtype=np.float32),
        baseline_rewards=np.array([1, 0], dtype=np.float32),
        baseline_lengths=np.array([6, 4], dtype=np.int32),
        capped=(False, False),
        epoch=epoch,
    )


def _published(config: Config, version: int) -> bytes:
    return (RunPaths.of(config).weights / f"v{version:06d}.safetensors").read_bytes()


async def _play(start: _Start, first: int, stop: int, epoch: int) -> list[StepDone]:
    """Give it these groups one by one, each behind the gradient of the one before; return the steps it told of."""
    told = []
    for group_id in range(first, stop):
        await start.groups.send(_group(group_id, epoch))
        if group_id % PER_STEP == PER_STEP - 1:
            done = await start.hear()
            assert isinstance(done, StepDone)
            told.append(done)
        else:
            await start.safe(group_id % PER_STEP + 1)
    return told


async def _state(start: _Start) -> LearnerState:
    state = await start.hear()
    assert isinstance(state, LearnerState)
    return state


async def _unbroken(tmp_path: Path, **sections: dict[str, Any]) -> tuple[bytes, dict[str, float]]:
    config = _config(tmp_path, "unbroken", **sections)
    start = _Start(config, 0)
    await _play(start, 0, STEPS * PER_STEP, 0)
    summary = await start.finish()
    return _published(config, STEPS), summary


OBJECTIVES: dict[str, dict[str, Any]] = {
    "plain": {},
    "frozen": {"kl_weight": 0.1, "updates_per_step": 2},
    "adapter": {"kl_weight": 0.1, "lora_rank": 4},
}


@pytest.mark.parametrize("objective", ["plain", "frozen", pytest.param("adapter", marks=pytest.mark.long)])
async def test_killed_after_any_group_the_last_weights_are_those_of_an_unbroken_run(
    config: Config, tmp_path: Path, objective: str
) -> None:
    learner = {"lr": 1e-3, **OBJECTIVES[objective]}
    expected, summary = await _unbroken(tmp_path, learner=learner)
    config = _config(tmp_path, "run", learner=learner)
    start, epoch, told, reports = _Start(config, 0), 0, [], list[StepMetrics]()
    for group_id in range(STEPS * PER_STEP):  # and after every one of them it is killed
        told += await _play(start, group_id, group_id + 1, epoch)
        await start.kill()
        reports += start.supervisor.reports
        start = _Start(config, group_id + 1)
        state = await _state(start)
        version, num_open = divmod(group_id + 1, PER_STEP)
        assert state.version == version and state.epoch > epoch
        assert [step.version for step in state.steps] == list(range(1, version + 1))
        assert state.received == tuple(range(version * PER_STEP, version * PER_STEP + num_open))
        assert state.last == (version == STEPS)
        epoch = state.epoch
        if version:
            generator = start.policy.dealer("generator-0")
            await generator.send(GeneratorHello(replica=0))
            update = await generator.recv()
            assert (update.version, update.last) == (version, version == STEPS)
        await start.groups.send(_group(99, epoch - 1))  # of the epoch before: void
        await start.groups.send(StateTaken(epoch=epoch))
        await start.safe(num_open)
    assert [done.version for done in told] == list(range(1, STEPS + 1))
    assert [done.last for done in told] == [False] * (STEPS - 1) + [True]
    assert _published(config, STEPS) == expected
    again = await start.finish()
    for name in ("steps", "trained_tokens", "skipped_steps", "swept_groups", "policy_version", "ended_by/steps"):
        assert again[name] == summary[name]
    for name in ("reward_kept/last", "response_length_kept/last", "logprob_parity/mean"):
        assert again[name] == pytest.approx(summary[name], abs=0)
    # The report of the last step is repeated after a loss: the same numbers for the same step.
    losses = {report.step: report.values["learner/loss"] for report in reports}
    assert sorted(losses) == list(range(STEPS))
    assert all(report.values["learner/loss"] == losses[report.step] for report in reports)
    assert not RunPaths.of(config).recovery.exists()
    assert [path.name for path in RunPaths.of(config).spool.iterdir()] == ["steps.journal"]


async def test_only_what_no_checkpoint_covers_is_trained_again(config: Config) -> None:
    start = _Start(config, 0)
    await _play(start, 0, 7, 0)
    await start.kill()
    paths = RunPaths.of(config)
    assert [path.name for path in paths.recovery.iterdir()] == ["step_2"]
    again = _Start(config, 1)
    state = await _state(again)
    assert (state.version, state.received) == (3, (6,))
    assert again.trained == [[4], [5]]
    await again.groups.send(StateTaken(epoch=state.epoch))
    await again.safe(1)
    assert again.trained == [[4], [5], [6]]
    await again.kill()


async def test_a_damaged_checkpoint_is_passed_over_for_one_that_the_spool_leads_on_from(
    config: Config, tmp_path: Path
) -> None:
    expected, _ = await _unbroken(tmp_path)
    start = _Start(config, 0)
    await _play(start, 0, 6, 0)
    await start.kill()
    paths = RunPaths.of(config)
    tensors = paths.recovery / "step_2" / "training_state" / "tensors.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1])
    broken = _Start(config, 1)
    with pytest.raises(BaseExceptionGroup) as caught:
        await broken.hear()
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RunFailed) and "cannot reach version 3 again" in str(error)
    tensors.write_bytes(whole)
    again = _Start(config, 2)
    state = await _state(again)
    await again.groups.send(StateTaken(epoch=state.epoch))
    await _play(again, 6, 8, state.epoch)
    assert _published(config, STEPS) == expected
    await again.finish()


async def test_after_an_orderly_end_the_open_step_is_begun_anew(config: Config) -> None:
    start = _Start(config, 0)
    await _play(start, 0, 3, 0)
    await start.finish("interrupted")
    again = _Start(config, 0, resumed=True)
    state = await _state(again)
    assert (state.version, state.received) == (1, ())
    assert again.trained == []  # the checkpoint of the end covers it
    await again.kill()


async def test_groups_that_are_over_are_not_trained(config: Config) -> None:
    start = _Start(config, 0)
    await _play(start, 0, 1, 0)
    await start.kill()
    again = _Start(config, 0, resumed=True)
    state = await _state(again)
    assert state.received == (0,)
    await again.groups.send(StateTaken(epoch=state.epoch, over=(0,)))
    for group_id in (8, 9):  # others in its place
        group = _group(group_id - 8, state.epoch)
        await again.groups.send(_renumbered(group, group_id))
    done = await again.hear()
    assert isinstance(done, StepDone) and done.group_ids == (8, 9)
    assert sorted(number for part in again.trained for number in part) == [8, 9]
    await again.kill()


def _renumbered(group: TrainGroup, group_id: int) -> TrainGroup:
    ids = (candidate_id(group_id, 0), candidate_id(group_id, 1))
    return msgspec.structs.replace(group, group_id=group_id, candidate_ids=ids)


async def test_a_new_selector_is_told_what_there_is_and_old_groups_are_void(config: Config) -> None:
    start = _Start(config, 0)
    await _play(start, 0, 3, 0)
    start.supervisor.losses.put_nowait(RoleLost(role="selector", rank=0, incarnation=0))
    state = await _state(start)
    assert (state.version, state.received, state.epoch) == (1, (2,), 1)
    assert [step.group_ids for step in state.steps] == [(0, 1)]
    await start.groups.send(_group(3))  # still on its way from the selector that died
    await start.groups.send(StateTaken(epoch=1))
    await start.groups.send(_renumbered(_group(3, 1), 11))
    done = await start.hear()
    assert isinstance(done, StepDone) and done.group_ids == (2, 11)
    await start.kill()


async def test_weights_that_are_gone_with_the_memory_are_published_again(tmp_path: Path) -> None:
    """Version 2 is evaluated; version 3 has the checkpoint that is gone on from."""
    evals = {"every_steps": 2, "prompts": 2}
    config = _config(tmp_path, "run", checkpoint={"recovery_steps": 0, "every_steps": 3}, eval=evals)
    paths = RunPaths.of(config)
    start = _Start(config, 0)
    await _play(start, 0, 7, 0)
    await start.kill()
    published = {path.name: path.read_bytes() for path in paths.weights.glob("*.safetensors")}
    shutil.rmtree(paths.weights)
    again = _Start(config, 0, resumed=True)
    state = await _state(again)
    assert (state.version, state.received) == (3, (6,))
    assert again.trained == []
    found = {path.name: path.read_bytes() for path in paths.weights.glob("*.safetensors")}
    assert found == {name: published[name] for name in ("v000002.safetensors", "v000003.safetensors")}
    await again.kill()
    shutil.rmtree(paths.weights)


@pytest.mark.parametrize(("steps", "last"), [(STEPS, True), (STEPS + 1, False)])
async def test_a_run_that_was_complete_goes_on_under_another_limit(config: Config, steps: int, last: bool) -> None:
    start = _Start(config, 0)
    await _play(start, 0, STEPS * PER_STEP, 0)
    await start.finish()
    longer = config.model_copy(update={"run": config.run.model_copy(update={"steps": steps})})
    again = _Start(longer, 0, resumed=True)
    state = await _state(again)
    assert (state.version, state.last) == (STEPS, last)
    await again.groups.send(StateTaken(epoch=state.epoch))
    if not last:
        (done,) = await _play(again, STEPS * PER_STEP, (STEPS + 1) * PER_STEP, state.epoch)
        assert (done.version, done.last) == (STEPS + 1, True)
    await again.finish()


async def test_after_an_orderly_end_at_an_evaluated_version_it_goes_on(tmp_path: Path) -> None:
    config = _config(tmp_path, "run", eval={"every_steps": 2, "prompts": 2}, checkpoint={"recovery_steps": 20})
    paths = RunPaths.of(config)
    start = _Start(config, 0)
    await _play(start, 0, 5, 0)
    await start.finish("interrupted")
    shutil.rmtree(paths.weights)
    again = _Start(config, 0, resumed=True)
    async with asyncio.timeout(30):
        state = await _state(again)
    assert (state.version, state.received) == (2, ())
    assert [path.name for path in paths.weights.iterdir()] == ["v000002.safetensors"]
    await again.kill()
    shutil.rmtree(paths.weights)
