"""One engine for many runs: every run sees versions from 0, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from darts_async.config import Config
from darts_async.engines.base import EngineOutput, RolloutEngine
from darts_async.engines.rebased import RebasedEngine, original_weights
from darts_async.engines.sim_engine import SimEngine
from darts_async.errors import ConfigError, EngineDead
from darts_async.messages import RolloutRequest, VersionSpan

Scene = Callable[[SimEngine], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def with_engine(request: pytest.FixtureRequest) -> Callable[[Scene], None]:
    """Runs a scene with a started engine, on one kind of event loop."""

    async def whole(scene: Scene) -> None:
        args = {"token_s": 0.0005, "mean_tokens": 40.0}
        inner = SimEngine(Config.model_validate({"generator": {"engine": "sim", "engine_args": args}}), 0)
        await inner.start()
        try:
            await asyncio.wait_for(scene(inner), 20)
        finally:
            await inner.close()

    def on_loop(scene: Scene) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(whole(scene))

    return on_loop


def rebased_request(candidate: int) -> RolloutRequest:
    return RolloutRequest(
        candidate_id=candidate,
        prompt_tokens=np.asarray([5], np.int32),
        seed=candidate,
        max_response_tokens=64,
        min_policy_version=0,
    )


async def sampled(engine: RolloutEngine, candidate: int) -> list[EngineOutput]:
    return [output async for output in engine.generate(rebased_request(candidate))]


def test_every_run_begins_at_version_0(with_engine):
    async def scene(inner: SimEngine) -> None:
        engine = RebasedEngine(inner, Path("original"))
        for run in range(3):
            await engine.rebase()
            assert engine.version == 0
            assert (await sampled(engine, run))[-1].version_spans == (VersionSpan(0, 0),)
            await engine.update_weights(1, "one")
            await engine.update_weights(4, "four")
            await engine.update_weights(2, "late")
            assert engine.version == 4
            assert (await sampled(engine, run))[-1].version_spans == (VersionSpan(4, 0),)
        assert inner.version == 3 * 5  # original, and version 4 of the run, three times

    with_engine(scene)


def test_an_update_in_flight_shows_in_the_run_s_versions(with_engine):
    async def scene(inner: SimEngine) -> None:
        engine = RebasedEngine(inner, Path("original"))
        await engine.rebase()
        await engine.update_weights(3, "three")
        await engine.rebase()
        stream = engine.generate(rebased_request(1))
        before = len((await anext(stream)).token_ids)
        await engine.update_weights(1, "one")
        last = [output async for output in stream][-1]
        assert last.version_spans == (VersionSpan(0, 0), VersionSpan(1, before))

    with_engine(scene)


def test_a_generator_cannot_end_the_shared_engine(with_engine):
    async def scene(inner: SimEngine) -> None:
        engine = RebasedEngine(inner, Path("original"))
        await engine.start()
        await engine.close()
        assert (await sampled(engine, 1))[-1].finish_reason in {"stop", "length"}

    with_engine(scene)


def test_settle_ends_what_a_run_left(with_engine):
    async def scene(inner: SimEngine) -> None:
        engine = RebasedEngine(inner, Path("original"))
        reader = asyncio.create_task(sampled(engine, 1))
        await asyncio.sleep(0)
        assert engine.num_unfinished == 1
        await engine.settle(5)
        assert (engine.num_unfinished, (await reader)[-1].finish_reason) == (0, "abort")

    with_engine(scene)


def test_settle_says_that_a_request_stays(with_engine):
    async def scene(inner: SimEngine) -> None:
        engine = RebasedEngine(inner, Path("original"))
        async with contextlib.aclosing(engine.generate(rebased_request(1))) as stream:
            await anext(stream)  # and nobody reads on
            with pytest.raises(EngineDead, match=r"1 requests did not end within 0\.01 s"):
                await engine.settle(0.01)

    with_engine(scene)


def test_the_clock_counts_from_the_rebase(with_engine):
    async def scene(inner: SimEngine) -> None:
        engine = RebasedEngine(inner, Path("original"))
        await sampled(engine, 1)
        assert engine.clock.read()[0] > 0
        await engine.rebase()
        assert engine.clock.read()[0] == 0

    with_engine(scene)


def test_the_original_weights_are_a_file_or_the_folder_of_several(tmp_path):
    with pytest.raises(ConfigError, match="no safetensors file"):
        original_weights(tmp_path)
    (tmp_path / "a.safetensors").touch()
    assert original_weights(tmp_path) == tmp_path / "a.safetensors"
    (tmp_path / "b.safetensors").touch()
    assert original_weights(tmp_path) == tmp_path
