"""The generator on in-memory links with the simulated engine: every candidate ends once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.generator import run
from darts_async.config import Config
from darts_async.engines.sim_engine import SimEngine
from darts_async.engines.sim_response import SimParams, sample_response
from darts_async.errors import EngineDead, ProtocolError
from darts_async.messages import (
    CancelRollouts,
    ChunkNews,
    ChunksDropped,
    Credits,
    DropBelow,
    FromAllocator,
    FromGenerator,
    GeneratorHello,
    LatencySamples,
    Message,
    ParkRollouts,
    PolicyApplied,
    PolicyUpdate,
    Progress,
    RoleLost,
    RolloutEnded,
    RolloutRequest,
    StreamEnd,
    StreamRollouts,
    ToGenerator,
    ToSelector,
    Trajectory,
    TrajectoryChunk,
    VersionSpan,
    candidate_id,
    index_of,
)
from darts_async.runtime.links import GeneratorLinks
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange, MemoryStream

_DEADLINE_S = 20.0
SLOTS = 32
Play = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scene on one kind of event loop."""

    def on_loop(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scene(), _DEADLINE_S))

    return on_loop


class FakeSupervisor:
    """The control link's near side, with no far side."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.incarnation = 0
        self.resumed = False
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.stop_reason = ""
        self.state = ""
        self.gauges: dict[str, float] = {}
        self.readied = asyncio.Event()
        self.summary: dict[str, float] | None = None

    async def ready(self) -> None:
        self.readied.set()

    async def send(self, message: Message) -> None:
        raise AssertionError(f"unexpected {message}")

    async def finish(self, summary: dict[str, float]) -> None:
        self.summary = summary


class Scene:
    """The other ends of a generator's links."""

    def __init__(
        self,
        args: dict[str, Any],
        *,
        slots: int = SLOTS,
        interval: int = 4,
        hwm: int = 4096,
        mode: str = "async",
        chunk_tokens: int = 0,
    ) -> None:
        self.params = SimParams.parse(args)
        self.config = Config.model_validate(
            {
                "pipeline": {"mode": mode},
                "queues": {"chunk_tokens": chunk_tokens},
                "generator": {
                    "engine": "sim",
                    "engine_args": args,
                    "max_num_seqs": slots,
                    "stream_interval": interval,
                },
            }
        )
        self.supervisor = FakeSupervisor()
        rollouts: MemoryExchange[FromAllocator, FromGenerator] = MemoryExchange(
            hwm=4096, send=Codec(FromAllocator), receive=Codec(FromGenerator)
        )
        cancels: MemoryExchange[ToGenerator, GeneratorHello] = MemoryExchange(
            send=Codec(ToGenerator), receive=Codec(GeneratorHello)
        )
        policy: MemoryExchange[PolicyUpdate, GeneratorHello | PolicyApplied] = MemoryExchange(
            send=Codec(PolicyUpdate), receive=Codec(GeneratorHello | PolicyApplied)
        )
        self.stream: MemoryStream[ToSelector] = MemoryStream(hwm=hwm, codec=Codec(ToSelector))
        self.receiver = self.stream.receiver()
        self.chunks: MemoryStream[ChunkNews] = MemoryStream(hwm=4, codec=Codec(ChunkNews))
        self.to_learner = self.chunks.receiver()
        self.rollouts, self.cancels, self.policy = rollouts.hub, cancels.hub, policy.hub
        self.engine = SimEngine(self.config, 3)
        self.links = GeneratorLinks(
            rank=3,
            rollouts=rollouts.dealer("g"),
            trajectories=self.stream.sender(),
            cancels=cancels.dealer("g"),
            policy=policy.dealer("g"),
            chunks=self.chunks.sender(),
            supervisor=self.supervisor,
        )
        self.received: list[ToSelector] = []

    async def request(self, *indices: int, cap: int = 512, min_version: int = 0) -> None:
        for index in indices:
            await self.rollouts.send("g", make_request(index, cap=cap, min_version=min_version))

    async def grant(self) -> Credits:
        """The next grant; latency samples travel on the same link."""
        while True:
            _, message = await self.rollouts.recv()
            if isinstance(message, Credits):
                return message

    async def cancel(self, *indices: int) -> None:
        ids = tuple(candidate_id(0, index) for index in indices)
        await self.cancels.send("g", CancelRollouts(candidate_ids=ids, decided_at_s=time.monotonic()))

    async def park(self, *indices: int, version: int) -> None:
        ids = tuple(candidate_id(0, index) for index in indices)
        await self.cancels.send("g", ParkRollouts(candidate_ids=ids, resume_version=version))

    async def order_stream(self, *indices: int) -> None:
        ids = tuple(candidate_id(0, index) for index in indices)
        await self.cancels.send("g", StreamRollouts(candidate_ids=ids))

    async def collect(self, into: list[ChunkNews]) -> None:
        """Receive for the learner until cancelled."""
        while True:
            into.append(await self.to_learner.recv())

    async def publish(self, version: int) -> None:
        await self.policy.send("g", PolicyUpdate(version=version, weights=f"/v{version}"))

    async def until(self, wanted: Callable[[ToSelector], bool]) -> ToSelector:
        """Receive until a message is the wanted one; all are kept in `received`."""
        while True:
            message = await self.receiver.recv()
            self.received.append(message)
            if wanted(message):
                return message

    async def ends(self, *indices: int) -> dict[int, Trajectory | RolloutEnded]:
        """Receive until these candidates have ended."""
        missing = {candidate_id(0, index) for index in indices} - set(self.ended())
        while missing:
            message = await self.until(lambda message: isinstance(message, Trajectory | RolloutEnded))
            missing.discard(message.candidate_id)  # type: ignore[union-attr]
        return {index: self.ended()[candidate_id(0, index)] for index in indices}

    def ended(self) -> dict[int, Trajectory | RolloutEnded]:
        """Ends received so far; each candidate has one at most, and no progress after it."""
        found: dict[int, Trajectory | RolloutEnded] = {}
        for message in self.received:
            if isinstance(message, Trajectory | RolloutEnded):
                assert message.candidate_id not in found
                assert message.replica == 3
                found[message.candidate_id] = message
            elif isinstance(message, Progress):
                assert not found.keys() & set(message.candidate_ids.tolist())
        return found

    def planned(self, index: int, cap: int = 512) -> np.ndarray:
        """The response that the simulated engine gives to a candidate."""
        return sample_response(self.params, make_request(index, cap=cap)).tokens

    async def stop(self) -> None:
        """Stop the run and receive all that is left."""
        self.supervisor.stop_reason = "done"
        self.supervisor.stopping.set()
        end = await self.until(lambda message: isinstance(message, StreamEnd))
        assert (end.role, end.rank) == ("generator", 3)  # type: ignore[union-attr]


@asynccontextmanager
async def generator(
    args: dict[str, Any] | None = None, *, engine: type[SimEngine] = SimEngine, stop: bool = True, **settings: Any
) -> AsyncIterator[Scene]:
    """A running generator; stopped at the end, with nothing left in its engine."""
    scene = Scene({"token_s": 0.0002} | (args or {}), **settings)
    scene.engine = engine(scene.config, 3)
    async with asyncio.TaskGroup() as group:
        role = group.create_task(run(scene.links, scene.config, scene.engine))
        await scene.supervisor.readied.wait()
        yield scene
        if stop and not scene.supervisor.stopping.is_set():
            await scene.stop()
        await role
    assert scene.engine.num_unfinished == 0
    assert scene.supervisor.summary is not None
    tokens = sum(
        end.response_tokens.size if isinstance(end, Trajectory) else end.num_tokens for end in scene.ended().values()
    )
    assert scene.supervisor.summary["tokens"] == tokens + scene.supervisor.summary["dropped_tokens"]


def make_request(index: int, *, cap: int = 512, min_version: int = 0) -> RolloutRequest:
    return RolloutRequest(
        candidate_id=candidate_id(0, index),
        prompt_tokens=np.asarray([index % 5, 7, 9], np.int32),
        seed=index,
        max_response_tokens=cap,
        min_policy_version=min_version,
    )


def longest(scene: Scene, num: int = 200) -> int:
    """Index of the candidate with the longest response."""
    return max(range(num), key=lambda index: scene.planned(index).size)


def test_it_introduces_itself_and_grants_its_slots(play: Play) -> None:
    async def check() -> None:
        async with generator() as stage:
            for hub in (stage.cancels, stage.policy):
                peer, hello = await hub.recv()
                assert (peer, type(hello), hello.replica) == ("g", GeneratorHello, 3)
            peer, grant = await stage.rollouts.recv()
            assert (peer, grant.replica, grant.granted_total) == ("g", 3, SLOTS)

    play(check)


def test_it_measures_the_time_between_tokens_of_a_candidate(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 400, "sigma": 0.1, "prompt_sigma": 0, "token_s": 0.005}) as stage:
            await stage.request(0, 1, 2)
            while True:
                _, message = await stage.rollouts.recv()
                if isinstance(message, LatencySamples):
                    break
            assert message.replica == 3
            assert message.concurrency.tolist() == [3]  # one median, whatever happened in between
            assert 0.005 <= float(message.per_token_s[0]) < 0.05

    play(check)


def test_trajectories_are_what_the_engine_sampled_and_credits_come_back(play: Play) -> None:
    async def check() -> None:
        async with generator() as stage:
            await stage.request(*range(SLOTS), cap=64)
            ends = await stage.ends(*range(SLOTS))
            for index, end in ends.items():
                plan = sample_response(stage.params, make_request(index, cap=64))
                assert isinstance(end, Trajectory)
                assert end.response_tokens.tolist() == plan.tokens.tolist()
                assert end.behaviour_logprobs.tolist() == plan.logprobs.tolist()
                assert end.finish_reason == ("length" if plan.capped else "stop")
                assert end.version_spans == (VersionSpan(0, 0),)
            assert {end.finish_reason for end in ends.values() if isinstance(end, Trajectory)} == {"stop", "length"}
            granted = 0
            while granted < 2 * SLOTS:
                grant = await stage.grant()
                assert granted <= grant.granted_total
                granted = grant.granted_total
            assert granted == 2 * SLOTS
            await stage.request(*range(SLOTS, 2 * SLOTS), cap=8)
            await stage.ends(*range(SLOTS, 2 * SLOTS))

    play(check)


def test_groups_that_are_over_are_dropped_in_silence_and_another_allocator_gets_their_places(play: Play) -> None:
    async def check() -> None:
        long = {"mean_tokens": 400, "sigma": 0.1, "prompt_sigma": 0, "token_s": 0.02}
        async with generator(long) as stage:
            await stage.request(*range(SLOTS - 1))
            await stage.request(SLOTS - 1, min_version=1)  # held: the engine has not seen it
            await stage.until(lambda message: isinstance(message, Progress))
            stage.supervisor.losses.put_nowait(RoleLost(role="allocator", rank=0, incarnation=0))
            while (grant := await stage.grant()).allocator != 1:
                pass
            assert grant.granted_total == 0  # the places are taken still
            await stage.cancels.send("g", DropBelow(group_id=1))
            while (grant := await stage.grant()).granted_total < SLOTS:
                pass
            assert (grant.allocator, grant.granted_total) == (1, SLOTS)
            await stage.request(SLOTS)  # of the allocator before
            other = msgspec.structs.replace(make_request(0), candidate_id=candidate_id(1, 0), allocator=1)
            await stage.rollouts.send("g", other)
            late = msgspec.structs.replace(make_request(1), candidate_id=candidate_id(0, 99), allocator=1)
            await stage.rollouts.send("g", late)
            assert (await stage.grant()).granted_total == SLOTS + 1  # its credit is free again at once
            await stage.stop()
            assert set(stage.ended()) == {candidate_id(1, 0)}

    play(check)


def test_progress_is_a_growing_lower_bound_one_message_a_step(play: Play) -> None:
    async def check() -> None:
        async with generator(interval=8) as stage:
            await stage.request(*range(SLOTS))
            ends = await stage.ends(*range(SLOTS))
            last: dict[int, int] = {}
            reports = [message for message in stage.received if isinstance(message, Progress)]
            for report in reports:
                for candidate, num_tokens in zip(
                    report.candidate_ids.tolist(), report.num_tokens.tolist(), strict=True
                ):
                    assert last.get(candidate, 0) < num_tokens
                    last[candidate] = num_tokens
            lengths = {
                candidate_id(0, i): end.response_tokens.size for i, end in ends.items() if isinstance(end, Trajectory)
            }
            assert all(num_tokens < lengths[candidate] for candidate, num_tokens in last.items())
            assert set(last) == {candidate for candidate, length in lengths.items() if length > 8}
            assert len(reports) <= max(lengths.values()) / 8 + 2

    play(check)


def test_a_cancel_ends_a_running_candidate_with_its_tokens_so_far(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 200}) as stage:
            victim = longest(stage)
            await stage.request(victim, 201)
            await stage.until(
                lambda message: isinstance(message, Progress) and candidate_id(0, victim) in message.candidate_ids
            )
            await stage.cancel(victim)
            ends = await stage.ends(victim, 201)
            end = ends[victim]
            assert isinstance(end, RolloutEnded)
            assert (end.reason, end.error) == ("cancelled", "")
            assert 0 < end.num_tokens < stage.planned(victim).size
            assert end.cancel_latency_s is not None and 0 <= end.cancel_latency_s < 1
            assert isinstance(ends[201], Trajectory)
        assert stage.supervisor.summary is not None
        assert stage.supervisor.summary["cancels"] == 1
        assert stage.supervisor.summary["cancel_latency_ms/p50"] == pytest.approx(end.cancel_latency_s * 1e3)

    play(check)


def test_a_cancel_that_overtakes_its_request_still_counts(play: Play) -> None:
    async def check() -> None:
        async with generator() as stage:
            await stage.cancel(1, 2)
            await stage.request(0)
            await stage.ends(0)  # by now the cancel has been read
            await stage.request(1, 2, 3)
            ends = await stage.ends(1, 2, 3)
            for index in (1, 2):
                end = ends[index]
                assert isinstance(end, RolloutEnded)
                assert (end.reason, end.num_tokens, end.cancel_latency_s) == ("cancelled", 0, None)
            assert isinstance(ends[3], Trajectory)

    play(check)


def test_a_cancel_of_a_candidate_that_has_ended_is_ignored(play: Play) -> None:
    async def check() -> None:
        async with generator() as stage:
            await stage.request(0)
            await stage.ends(0)
            await stage.cancel(0, 5)
            await stage.request(1)
            assert isinstance((await stage.ends(1))[1], Trajectory)

    play(check)


def test_a_request_is_held_until_the_weights_are_new_enough_and_blocks_nobody(play: Play) -> None:
    async def check() -> None:
        async with generator() as stage:
            await stage.request(0, 1, min_version=2)
            await stage.request(2)
            assert isinstance((await stage.ends(2))[2], Trajectory)
            assert len(stage.ended()) == 1
            await stage.cancel(1)
            held = (await stage.ends(1))[1]
            assert isinstance(held, RolloutEnded)
            assert (held.reason, held.num_tokens, held.cancel_latency_s) == ("cancelled", 0, None)
            await stage.publish(1)
            await stage.policy.recv()
            await stage.policy.recv()
            await stage.request(3)
            await stage.ends(3)
            assert candidate_id(0, 0) not in stage.ended()
            await stage.publish(2)
            end = (await stage.ends(0))[0]
            assert isinstance(end, Trajectory)
            assert end.version_spans == (VersionSpan(2, 0),)

    play(check)


def test_a_swap_in_flight_shows_in_the_spans_and_is_confirmed(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 200}) as stage:
            victim = longest(stage)
            await stage.request(victim)
            await stage.until(lambda message: isinstance(message, Progress))
            await stage.publish(4)
            end = (await stage.ends(victim))[victim]
            assert isinstance(end, Trajectory)
            first, second = end.version_spans
            assert (first, second.version) == (VersionSpan(0, 0), 4)
            assert second.start % 4 == 0 and 0 < second.start < end.response_tokens.size
            assert end.response_tokens.tolist() == stage.planned(victim).tolist()
            _, hello = await stage.policy.recv()
            _, applied = await stage.policy.recv()
            assert isinstance(hello, GeneratorHello) and isinstance(applied, PolicyApplied)
            assert (applied.replica, applied.version) == (3, 4)
        assert stage.supervisor.summary is not None
        assert (stage.supervisor.summary["policy_version"], stage.supervisor.summary["updates"]) == (4, 1)

    play(check)


def test_only_the_newest_version_is_loaded(play: Play) -> None:
    async def check() -> None:
        async with generator({"update_s": 0.05}) as stage:
            await stage.policy.recv()
            for version in (1, 2, 3, 2):
                await stage.publish(version)
                await asyncio.sleep(0)
            applied = []
            while not applied or applied[-1] < 3:
                _, reply = await stage.policy.recv()
                assert isinstance(reply, PolicyApplied)
                applied.append(reply.version)
            assert applied == [1, 3]

    play(check)


class _Refuses(SimEngine):
    """Cannot use the file of version 1, and finds out late."""

    async def update_weights(self, version: int, weights: str) -> None:
        if version == 1:
            await asyncio.sleep(0.02)
            raise ProtocolError("no such file")
        await super().update_weights(version, weights)


def test_a_file_that_is_gone_matters_only_while_it_is_the_newest(play: Play) -> None:
    async def check() -> None:
        async with generator(engine=_Refuses) as stage:
            await stage.policy.recv()
            await stage.publish(1)
            await stage.publish(2)
            _, reply = await stage.policy.recv()
            assert isinstance(reply, PolicyApplied) and reply.version == 2

        with pytest.raises(ExceptionGroup) as caught:
            async with generator(engine=_Refuses, stop=False) as stage:
                await stage.publish(1)
        assert "no such file" in str(leaf(caught.value))

    play(check)


def test_more_requests_than_credits_break_the_contract(play: Play) -> None:
    async def check() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with generator({"token_s": 1.0}, slots=2, stop=False) as stage:
                await stage.request(0, 1, 2)
        error = leaf(caught.value)
        assert isinstance(error, ProtocolError) and "request 3" in str(error)

    play(check)


def test_a_candidate_that_fails_is_reported_and_the_others_go_on(play: Play) -> None:
    async def check() -> None:
        async with generator({"fail_share": 0.4}) as stage:
            await stage.request(*range(SLOTS))
            ends = await stage.ends(*range(SLOTS))
            plans = {i: sample_response(stage.params, make_request(i)) for i in range(SLOTS)}
            failed = {i for i, end in ends.items() if isinstance(end, RolloutEnded)}
            assert failed == {i for i, plan in plans.items() if plan.fails_at is not None}
            assert 0 < len(failed) < SLOTS
            for index in failed:
                end = ends[index]
                assert isinstance(end, RolloutEnded)
                assert (end.reason, end.cancel_latency_s) == ("failed", None)
                assert "on purpose" in end.error
        assert stage.supervisor.summary is not None
        assert stage.supervisor.summary["failed"] == len(failed)

    play(check)


def test_an_end_that_nobody_asked_for_is_a_failure(play: Play) -> None:
    async def check() -> None:
        async with generator({"token_s": 1.0}) as stage:
            await stage.request(0)
            await turns(lambda: stage.engine.num_unfinished > 0)
            await stage.engine.abort([candidate_id(0, 0)])
            end = (await stage.ends(0))[0]
            assert isinstance(end, RolloutEnded) and end.reason == "failed"

    play(check)


def test_a_dead_engine_ends_the_role(play: Play) -> None:
    async def check() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with generator({"dies_after_tokens": 40}, stop=False) as stage:
                await stage.request(*range(8))
        assert isinstance(leaf(caught.value), EngineDead)
        assert stage.supervisor.summary is None

    play(check)


def test_a_stop_ends_every_candidate_once_also_those_not_yet_read(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 300}) as stage:
            await stage.request(*range(8))
            await stage.request(8, 9, min_version=5)
            await stage.until(lambda message: isinstance(message, Progress))
            # The stop comes first: it is obeyed before the role gets to look at these.
            stage.supervisor.stopping.set()
            await asyncio.gather(*(stage.request(index) for index in range(10, 30)))
            await stage.stop()
            ends = stage.ended()
            assert set(ends) == {candidate_id(0, index) for index in range(30)}
            unfinished = [end for end in ends.values() if isinstance(end, RolloutEnded)]
            assert all(end.reason == "cancelled" and end.cancel_latency_s is None for end in unfinished)
            assert all(ends[candidate_id(0, index)].num_tokens == 0 for index in range(8, 30))  # type: ignore[union-attr]
            assert isinstance(stage.received[-1], StreamEnd)
        assert stage.supervisor.summary is not None
        assert stage.supervisor.summary["cancelled"] == len(unfinished)

    play(check)


def test_a_blocked_selector_holds_up_neither_cancels_nor_the_order(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 100}, hwm=1) as stage:
            victim = longest(stage, 24)
            await stage.request(*range(24))
            await turns(
                lambda: stage.engine.num_unfinished == 1
            )  # everything but the longest has ended; nothing was received
            await stage.cancel(victim)
            await turns(lambda: stage.engine.num_unfinished == 0)
            ends = await stage.ends(*range(24))
            end = ends.pop(victim)
            assert isinstance(end, RolloutEnded) and end.cancel_latency_s is not None and end.cancel_latency_s < 0.2
            assert all(isinstance(end, Trajectory) for end in ends.values())

    play(check)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_cancelled_whenever_every_candidate_ends_once(play: Play, seed: int) -> None:
    chance = random.Random(seed)

    async def check() -> None:
        async with generator({"fail_share": 0.1, "mean_tokens": 40, "token_s": 0.0001}, hwm=8) as stage:
            async with asyncio.TaskGroup() as group:

                async def cancel_some() -> None:
                    for _ in range(40):
                        await stage.cancel(*chance.sample(range(120), 3))
                        await asyncio.sleep(chance.choice([0, 0, 0.001]))

                async def publish_some() -> None:
                    for version in range(1, 8):
                        await stage.publish(version)
                        await asyncio.sleep(0.003)

                async def request_all() -> None:
                    granted = 0
                    for index in range(120):
                        while granted <= index:
                            grant = await stage.grant()
                            granted = grant.granted_total
                        await stage.request(index, min_version=chance.choice([0, 0, 0, 3, 7]))

                group.create_task(cancel_some())
                group.create_task(publish_some())
                group.create_task(request_all())
                ends = await stage.ends(*range(120))
            assert len(ends) == 120
            for index, end in ends.items():
                if isinstance(end, Trajectory):
                    assert end.response_tokens.tolist() == stage.planned(index).tolist()

    play(check)


class _SlowStart(SimEngine):
    """Takes for ever to load."""

    closed = False

    async def start(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


def test_a_stop_while_the_engine_loads_is_obeyed_at_once(play: Play) -> None:
    async def check() -> None:
        scene = Scene({})
        engine = scene.engine = _SlowStart(scene.config, 3)
        role = asyncio.create_task(run(scene.links, scene.config, engine))
        await asyncio.sleep(0)
        await scene.stop()
        await role
        assert engine.closed
        assert not scene.supervisor.readied.is_set()
        assert scene.supervisor.summary is not None and scene.supervisor.summary["tokens"] == 0

    play(check)


def test_the_gauges_tell_what_runs_and_what_is_held(play: Play) -> None:
    async def check() -> None:
        async with generator({"token_s": 0.002, "mean_tokens": 5000}) as stage:
            await stage.request(*range(4))
            await stage.request(4, 5, min_version=1)
            while stage.supervisor.gauges.get("generator/running") != 4:
                await stage.receiver.recv()
            gauges = stage.supervisor.gauges
            assert (gauges["generator/held"], gauges["policy_version"]) == (2, 0)
            assert 1000 < gauges["generator/tokens_per_s"] < 2100
            assert 0 <= gauges["generator/idle_ratio"] < 0.2
            assert stage.supervisor.state == "decoding"

    play(check)


async def turns(done: Callable[[], bool]) -> None:
    """Let the loop turn until something that has no event of its own is the case."""
    while not done():  # noqa: ASYNC110 - the engine's counters are no events
        await asyncio.sleep(0)


def leaf(error: BaseException) -> BaseException:
    """The first error inside nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def test_a_parked_candidate_goes_on_under_its_id_once_the_version_is_served(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 200}) as stage:
            victim = longest(stage)
            await stage.request(victim, 250)
            await stage.until(lambda message: isinstance(message, Progress))
            await stage.park(victim, version=2)
            await turns(lambda: stage.engine.num_unfinished == 1)
            await stage.ends(250)
            await stage.publish(1)  # not the one it waits for
            _, _hello = await stage.policy.recv()
            await stage.policy.recv()
            assert stage.engine.num_unfinished == 0 and candidate_id(0, victim) not in stage.ended()
            await stage.publish(2)
            end = (await stage.ends(victim))[victim]
            assert isinstance(end, Trajectory)
            plan = sample_response(stage.params, make_request(victim))
            assert end.response_tokens.tolist() == plan.tokens.tolist()
            assert end.behaviour_logprobs.tolist() == plan.logprobs.tolist()
            first, second = end.version_spans
            assert (first, second.version) == (VersionSpan(0, 0), 2)
            assert 0 < second.start < plan.tokens.size
        assert stage.supervisor.summary is not None
        assert stage.supervisor.summary["parked"] == 1

    play(check)


def test_a_parked_candidate_can_be_cancelled_and_keeps_its_count_to_the_end(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 400}, slots=2) as stage:
            first, second = sorted(range(200), key=lambda index: -stage.planned(index).size)[:2]
            await stage.request(first, second)
            for index in (first, second):
                await stage.until(lambda m, i=index: isinstance(m, Progress) and candidate_id(0, i) in m.candidate_ids)
            await stage.park(first, second, version=9)
            await turns(lambda: stage.engine.num_unfinished == 0)
            await stage.cancel(first)
            end = (await stage.ends(first))[first]
            assert isinstance(end, RolloutEnded)
            assert (end.reason, end.cancel_latency_s) == ("cancelled", None) and end.num_tokens > 0
            await stage.request(250)  # in the place of the cancelled one: the other still has its credit
            await stage.ends(250)
            await stage.stop()
            end = stage.ended()[candidate_id(0, second)]
            assert isinstance(end, RolloutEnded) and end.reason == "cancelled" and end.num_tokens > 0

    play(check)


def test_a_park_before_its_request_holds_it_and_one_after_its_version_does_nothing(play: Play) -> None:
    async def check() -> None:
        async with generator() as stage:
            await stage.park(1, version=1)
            await stage.request(0)
            await stage.ends(0)  # by now the order has been read
            await stage.request(1, 2)
            await stage.ends(2)
            assert candidate_id(0, 1) not in stage.ended()
            await stage.publish(1)
            end = (await stage.ends(1))[1]
            assert isinstance(end, Trajectory) and end.version_spans == (VersionSpan(1, 0),)
            await stage.park(4, version=1)
            await stage.request(4)
            assert isinstance((await stage.ends(4))[4], Trajectory)

    play(check)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_parked_whenever_every_response_is_whole(play: Play, seed: int) -> None:
    chance = random.Random(seed)

    async def check() -> None:
        async with generator({"fail_share": 0.1, "mean_tokens": 60, "token_s": 0.0001}, hwm=8) as stage:
            await stage.request(*range(SLOTS))

            async def disturb() -> None:
                for version in range(1, 12):
                    for _ in range(4):
                        await stage.park(*chance.sample(range(SLOTS), 6), version=chance.choice([version, 11]))
                        await asyncio.sleep(chance.choice([0, 0, 0.001]))
                    await stage.cancel(chance.randrange(SLOTS))
                    await stage.publish(version)
                    await asyncio.sleep(chance.choice([0, 0.002]))

            async with asyncio.TaskGroup() as group:
                group.create_task(disturb())
                ends = await stage.ends(*range(SLOTS))
            for index, end in ends.items():
                if isinstance(end, Trajectory):
                    assert end.response_tokens.tolist() == stage.planned(index).tolist()
                elif end.reason == "failed":
                    assert "on purpose" in end.error

    play(check)


def test_one_step_off_swaps_when_nothing_decodes_and_a_stop_does_not_wait_for_that(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 200, "update_s": 0.005}, mode="one_step_off") as stage:
            victim = longest(stage)
            await stage.request(victim)
            await stage.until(lambda message: isinstance(message, Progress))
            await stage.publish(1)
            end = (await stage.ends(victim))[victim]
            assert isinstance(end, Trajectory) and end.version_spans == (VersionSpan(0, 0),)
            await turns(stage.engine._updating.locked)
            await stage.request(1)  # arrives in the middle of the swap
            end = (await stage.ends(1))[1]
            assert isinstance(end, Trajectory) and end.version_spans == (VersionSpan(1, 0),)
            await stage.request(next(i for i in range(4, 500) if i != victim and stage.planned(i).size > 150))
            await stage.until(lambda message: isinstance(message, Progress))
            await stage.publish(2)

    play(check)


def joined(news: list[ChunkNews], index: int) -> list[int]:
    """The tokens of a candidate's chunks, which follow each other without gaps; the prompt comes with the first."""
    tokens: list[int] = []
    for message in news:
        if isinstance(message, TrajectoryChunk) and message.candidate_id == candidate_id(0, index):
            assert message.start == len(tokens)
            expected = make_request(index).prompt_tokens.tolist() if not tokens else []
            assert message.prompt_tokens.tolist() == expected
            tokens += message.response_tokens.tolist()
    return tokens


@pytest.mark.parametrize("chunk_tokens", [1, 8, 30])
def test_chunks_of_a_streamed_candidate_join_to_its_response_and_others_send_none(
    play: Play, chunk_tokens: int
) -> None:
    chance = random.Random(chunk_tokens)

    async def check() -> None:
        news: list[ChunkNews] = []
        async with generator({"mean_tokens": 120}, chunk_tokens=chunk_tokens) as stage:
            collecting = asyncio.create_task(stage.collect(news))
            await stage.order_stream(0, 1)  # overtakes the requests
            await stage.request(9)
            await stage.ends(9)  # by now the order has been read
            await stage.request(*range(8))
            await stage.until(lambda message: isinstance(message, Progress))
            await stage.order_stream(2, 3, 2)
            await stage.order_stream(9, 2)  # one that is gone, and one that is streamed already
            for version in (1, 2, 3):
                await stage.park(*chance.sample(range(8), 4), version=version)
                await stage.until(lambda message: isinstance(message, Progress | Trajectory))
                await stage.publish(version)
            ends = await stage.ends(*range(8))
            collecting.cancel()
        assert not any(isinstance(message, ChunksDropped) for message in news)
        for index, end in ends.items():
            assert isinstance(end, Trajectory)
            response, chunks = stage.planned(index).tolist(), joined(news, index)
            assert chunks == response[: len(chunks)]
            if index < 2:  # all but what came with the last output and what was no whole chunk yet
                assert len(response) - len(chunks) < chunk_tokens + 4
            elif index > 3:
                assert not chunks
        sizes = [m.response_tokens.size for m in news if isinstance(m, TrajectoryChunk)]
        assert sizes and min(sizes) >= chunk_tokens

    play(check)


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_a_streamed_candidate_that_is_cancelled_or_fails_is_dropped(play: Play, how: str) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 200, "fail_share": float(how == "fail")}, chunk_tokens=8) as stage:
            victim = longest(stage)
            await stage.order_stream(victim)
            await stage.request(victim)
            first = await stage.to_learner.recv()
            assert isinstance(first, TrajectoryChunk)
            if how == "cancel":
                await stage.cancel(victim)
            news: list[ChunkNews] = []
            while not news or isinstance(news[-1], TrajectoryChunk):
                news.append(await stage.to_learner.recv())
            assert news[-1].candidate_ids == (candidate_id(0, victim),)  # type: ignore[union-attr]
            assert isinstance((await stage.ends(victim))[victim], RolloutEnded)
        assert not stage.to_learner.stats.depth

    play(check)


def test_a_learner_that_does_not_read_holds_nothing_up(play: Play) -> None:
    async def check() -> None:
        async with generator({"mean_tokens": 100}, chunk_tokens=1, interval=1) as stage:
            await stage.order_stream(*range(8))
            await stage.request(*range(8))
            ends = await stage.ends(*range(8))
            for index, end in ends.items():
                assert isinstance(end, Trajectory) and end.response_tokens.tolist() == stage.planned(index).tolist()
            assert stage.to_learner.stats.depth == 4  # as much as the link takes
            news: list[ChunkNews] = []
            collecting = asyncio.create_task(stage.collect(news))
            await turns(lambda: any(isinstance(message, ChunksDropped) for message in news))
            await turns(lambda: not stage.to_learner.stats.depth)
            collecting.cancel()
        assert stage.supervisor.summary is not None and stage.supervisor.summary["streams_dropped"] > 0
        dropped = {c for message in news if isinstance(message, ChunksDropped) for c in message.candidate_ids}
        assert len(dropped) == stage.supervisor.summary["streams_dropped"]
        for index in range(8):
            chunks = joined([m for m in news if getattr(m, "candidate_id", None) not in dropped], index)
            assert chunks == stage.planned(index).tolist()[: len(chunks)]

    play(check)


async def test_requests_for_an_earlier_start_are_not_taken() -> None:
    scene = Scene({"token_s": 0.0002}, slots=2)
    scene.supervisor.incarnation = 1
    async with asyncio.timeout(_DEADLINE_S), asyncio.TaskGroup() as group:
        group.create_task(run(scene.links, scene.config, scene.engine))
        assert (await scene.grant()).incarnation == 1
        await scene.request(*range(5))  # more than was granted, all of it for the start before
        await scene.rollouts.send("g", msgspec.structs.replace(make_request(9), incarnation=1))
        await scene.ends(9)
        await scene.stop()
    assert set(scene.ended()) == {candidate_id(0, 9)}


# --- any order of everything --------------------------------------------------------------------------------------

_TICK_S = 0.002
"""A few steps of the engine."""


class Machine(RuleBasedStateMachine):
    """Any order of requests, cancels, parks, updates and time: what is asked of it, and what has to come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stage: Scene
        self.published = 0
        self.needs: dict[int, int] = {}
        """Requested candidates, and the version that they may not be older than."""
        self.cancelled: set[int] = set()
        self.granted = 0
        self.num_requested = 0

    def go(self, work: Any) -> Any:
        return self.runner.run(asyncio.wait_for(work, 20))

    @initialize(between=st.booleans(), slots=st.sampled_from([4, SLOTS]))
    def start(self, between: bool, slots: int) -> None:
        async def enter() -> Scene:
            mode = "one_step_off" if between else "async"
            # A task of its own holds the generator: a TaskGroup is entered and left in one task.
            started: asyncio.Future[Scene] = asyncio.get_running_loop().create_future()
            self.leave = asyncio.Event()

            async def hold() -> None:
                try:
                    async with generator({"update_s": 0.001}, slots=slots, mode=mode, stop=False) as stage:
                        started.set_result(stage)
                        await self.leave.wait()
                        await stage.stop()
                except BaseException as error:
                    if not started.done():
                        started.set_exception(error)
                    raise

            self.holding = asyncio.get_running_loop().create_task(hold())
            return await started

        self.stage = self.go(enter())

    @rule(num=st.integers(1, 4), ahead=st.integers(0, 2))
    def request(self, num: int, ahead: int) -> None:
        """Within the credits, of what is published or will be."""
        self.take_in()
        for _ in range(min(num, self.granted - self.num_requested)):
            index = len(self.needs)
            self.needs[index] = self.published + ahead
            self.num_requested += 1
            self.go(self.stage.request(index, cap=120, min_version=self.needs[index]))

    @rule(which=st.sets(st.integers(0, 60), max_size=5))
    def cancel(self, which: set[int]) -> None:
        """Also of what has ended, and of what is not requested yet."""
        self.cancelled |= which
        self.go(self.stage.cancel(*which))

    @rule(which=st.sets(st.integers(0, 60), max_size=5), ahead=st.integers(0, 2))
    def park(self, which: set[int], ahead: int) -> None:
        self.go(self.stage.park(*which, version=self.published + ahead))

    @rule()
    def update(self) -> None:
        self.published += 1
        self.go(self.stage.publish(self.published))

    @rule(ticks=st.integers(1, 8))
    def time_passes(self, ticks: int) -> None:
        self.go(asyncio.sleep(ticks * _TICK_S))
        self.take_in()

    def take_in(self) -> None:
        """Receive whatever is there."""

        async def receive() -> None:
            while True:
                try:
                    async with asyncio.timeout(0.001):
                        self.stage.received.append(await self.stage.receiver.recv())
                except TimeoutError:
                    break
            while True:
                try:
                    async with asyncio.timeout(0.001):
                        _, message = await self.stage.rollouts.recv()
                except TimeoutError:
                    break
                if isinstance(message, Credits):
                    self.granted = max(self.granted, message.granted_total)

        self.go(receive())

    @invariant()
    def each_ends_once_as_it_should(self) -> None:
        if not hasattr(self, "stage"):
            return
        for candidate, end in self.stage.ended().items():  # asserts: one end each, and no progress after it
            index = index_of(candidate)
            if isinstance(end, Trajectory):
                assert end.version_spans[0].version >= self.needs[index]
                assert end.response_tokens.tolist() == self.stage.planned(index, cap=120).tolist()
                assert end.behaviour_logprobs.size == end.response_tokens.size
                versions = [span.version for span in end.version_spans]
                assert versions == sorted(set(versions)) and versions[-1] <= self.published
            else:
                assert end.reason == "cancelled" and index in self.cancelled
        for message in self.stage.received:
            if isinstance(message, Progress):
                assert {index_of(c) for c in message.candidate_ids.tolist()} <= self.needs.keys()
        assert self.granted <= self.num_requested + SLOTS

    def teardown(self) -> None:
        """Once every version is served, whatever was not cancelled ends by itself: nothing stays parked or held."""
        if not hasattr(self, "stage"):
            return

        async def finish() -> None:
            for version in range(self.published + 1, self.published + 3):
                await self.stage.publish(version)
            self.published += 2
            await self.stage.ends(*self.needs)
            self.leave.set()
            await self.holding

        try:
            self.go(finish())
            self.each_ends_once_as_it_should()
            ended = self.stage.ended()
            assert ended.keys() == {candidate_id(0, index) for index in self.needs}
            for index in self.needs.keys() - self.cancelled:
                assert not isinstance(ended[candidate_id(0, index)], RolloutEnded)
        finally:
            self.runner.close()


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestMachine = Machine.TestCase
