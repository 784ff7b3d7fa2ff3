"""A selector that is killed and started anew on its ledger, on in-memory links; the other roles are played here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from actors.selector import run
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import CandidateEnded, LedgerRecord, RunOpened, RunReopened
from darts_async.config import Config
from darts_async.config.rules import resolve
from darts_async.messages import (
    AllocatorHello,
    DispatchState,
    DropBelow,
    FromAllocatorToSelector,
    FromLearner,
    GeneratorHello,
    GroupOutcome,
    GroupPlan,
    LearnerState,
    LostDraw,
    Message,
    OpenGroup,
    PlanAccepted,
    PlanReply,
    Progress,
    RoleLost,
    StateTaken,
    StepDone,
    StreamEnd,
    ToGenerator,
    ToLearner,
    ToSelector,
    TrainedStep,
    TrainGroup,
    Trajectory,
    VersionSpan,
    Warn,
    candidate_id,
)
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.runtime.links import SelectorLinks
from darts_async.runtime.waiting import Look, nothing
from darts_async.tasks import load_task
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange, MemoryStream

PROMPT_IDS = [prompt.prompt_id for prompt in load_task("chain_arithmetic", {}).train_prompts()]


class Start:
    """The supervisor's side of one start of the selector."""

    def __init__(self, incarnation: int, *, resumed: bool = False) -> None:
        self.stopping = asyncio.Event()
        self.stop_reason = self.state = ""
        self.gauges: dict[str, float] = {}
        self.incarnation = incarnation
        self.resumed = resumed
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.look: Look = nothing
        self.knobs = None
        self.is_ready = asyncio.Event()
        self.reports: list[Message] = []
        self.warned: asyncio.Future[Warn] = asyncio.get_running_loop().create_future()
        self.summary: dict[str, float] = {}

    async def ready(self) -> None:
        self.is_ready.set()

    async def send(self, message: Message) -> None:
        self.reports.append(message)
        if isinstance(message, Warn) and not self.warned.done():
            self.warned.set_result(message)

    async def finish(self, summary: dict[str, float]) -> None:
        self.summary = summary


class World:
    """Links that outlive the selector, and one start of it after the other."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Path(config.run.dir) / "r" / "ledger"
        self._trajectories: MemoryStream[ToSelector] = MemoryStream(hwm=64, codec=Codec(ToSelector))
        self._groups: MemoryStream[ToLearner] = MemoryStream(hwm=64, codec=Codec(ToLearner))
        self._steps: MemoryStream[FromLearner] = MemoryStream(hwm=64, codec=Codec(FromLearner))
        self._plans: MemoryExchange[PlanReply, FromAllocatorToSelector] = MemoryExchange(
            hwm=64, send=Codec(PlanReply), receive=Codec(FromAllocatorToSelector)
        )
        self._cancels: MemoryExchange[ToGenerator, GeneratorHello] = MemoryExchange(
            hwm=64, send=Codec(ToGenerator), receive=Codec(GeneratorHello)
        )
        self.plans = self._plans.dealer("allocator-0")
        self.cancels = self._cancels.dealer("generator-0")
        self.stream = self._trajectories.sender()
        self.groups = self._groups.receiver()
        self.steps = self._steps.sender()
        self.start = Start(0)
        self.selector: asyncio.Task[None] | None = None

    async def begin(self, start: Start) -> None:
        self.start = start
        links = SelectorLinks(
            rank=0,
            plans=self._plans.hub,
            trajectories=self._trajectories.receiver(),
            cancels=self._cancels.hub,
            groups=self._groups.sender(),
            steps=self._steps.receiver(),
            supervisor=start,
        )
        self.selector = asyncio.create_task(run(links, self.config))
        ready = asyncio.create_task(start.is_ready.wait())
        await asyncio.wait((self.selector, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self.selector.done():
            self.selector.result()
        await self.cancels.send(GeneratorHello(replica=0, incarnation=0))

    async def kill(self, *, torn: bytes = b"") -> None:
        """End it as SIGKILL does: what it had not written is lost, and the last record may be half there."""
        assert self.selector is not None
        before = {path: path.read_bytes() for path in sorted(self.folder.glob("*.msgpack"))}
        self.selector.cancel()
        await asyncio.gather(self.selector, return_exceptions=True)
        for path in self.folder.glob("*.msgpack"):
            path.unlink()
        for path, data in before.items():
            path.write_bytes(data)
        if torn:
            with path.open("ab") as file:
                file.write(torn)

    async def stop(self) -> dict[str, float]:
        assert self.selector is not None
        self.start.stop_reason = "done"
        self.start.stopping.set()
        await self.stream.send(StreamEnd(role="generator", rank=0))
        await self.steps.send(StreamEnd(role="learner", rank=0))
        await self.selector
        return self.start.summary

    async def reply(self, kind: type[PlanReply]) -> Any:
        while not isinstance(message := await self.plans.recv(), kind):
            pass
        return message

    async def plan(self, group_id: int, draw: int) -> None:
        ids = tuple(candidate_id(group_id, index) for index in range(3))
        await self.plans.send(
            GroupPlan(
                group_id=group_id,
                draw=draw,
                candidate_ids=ids,
                prompt_id=PROMPT_IDS[draw],
                rule="shortest",
                group_size=2,
                keep_longest=0,
                dispatch_version=0,
                max_staleness=2,
                prompt_tokens=np.arange(3, dtype=np.int32),
            )
        )
        assert (await self.reply(PlanAccepted)).group_id == group_id

    async def finish(self, group_id: int) -> None:
        """Its candidates finish with 4, 5 and 6 tokens: the last one is rejected."""
        for index in reversed(range(3)):
            length = 4 + index
            await self.stream.send(
                Trajectory(
                    candidate_id=candidate_id(group_id, index),
                    replica=0,
                    finish_reason="stop",
                    response_tokens=np.full(length, 5, np.int32),
                    behaviour_logprobs=np.zeros(length, np.float32),
                    version_spans=(VersionSpan(0, 0),),
                )
            )

    async def train_group(self) -> TrainGroup:
        message = await self.groups.recv()
        assert isinstance(message, TrainGroup)
        return message

    def records(self, *, live: bool = False) -> list[LedgerRecord]:
        """Those on the disk; they are checked on the way."""
        audit = LedgerAudit()
        records = list(LedgerReader(self.folder, live=live))
        for record in records:
            audit.feed(record)
        audit.finish(live=live)
        assert audit.violations == []
        return records


Scene = Callable[[World], Coroutine[Any, Any, None]]
Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Play a scene on the event loop that roles run on."""

    def on_loop(scene: Scene, **launch: Any) -> None:
        config = resolve(
            Config.model_validate(
                {
                    "run": {"name": "r", "dir": str(tmp_path), "steps": 3, "seed": 5},
                    "model": {"max_response_tokens": 64},
                    "group": {"size": 2, "keep_longest": 0, "groups_per_step": 2},
                    "selection": {"rule": "shortest"},
                    "pipeline": {"mode": "async", "max_staleness": 2},
                    "generator": {"replicas": 1},
                    "reward": {"workers": 1},
                    "launch": {"drain_timeout_s": 4.0} | launch,
                }
            )
        )

        async def whole() -> None:
            async with asyncio.timeout(60.0), world(config) as set_up:
                await scene(set_up)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    return on_loop


@asynccontextmanager
async def world(config: Config) -> AsyncIterator[World]:
    set_up = World(config)
    try:
        await set_up.begin(Start(0))
        await set_up.plans.send(AllocatorHello(number=1))
        assert (await set_up.reply(DispatchState)).first_group == 0
        yield set_up
    finally:
        if set_up.selector is not None:
            set_up.selector.cancel()
            await asyncio.gather(set_up.selector, return_exceptions=True)


def test_a_killed_selector_is_replaced_by_one_that_reads_the_ledger(play: Play) -> None:
    async def scene(w: World) -> None:
        for group_id in range(4):
            await w.plan(group_id, draw=group_id)
        for group_id in range(3):
            await w.finish(group_id)
        assert [(await w.train_group()).group_id for _ in range(3)] == [0, 1, 2]
        ids = np.array([candidate_id(3, 0)], np.int64)
        await w.stream.send(Progress(replica=0, candidate_ids=ids, num_tokens=np.array([7], np.int32)))
        await w.kill(torn=b"\x93")
        # The learner made a step that nobody heard of, has group 2 on its disk, and the allocator asks again.
        await w.steps.send(LearnerState(epoch=1, version=1, steps=(TrainedStep(1, (0, 1)),), received=(2,)))
        await w.plans.send(AllocatorHello(number=2))
        await w.begin(Start(1))
        told = await w.cancels.recv()
        state = await w.reply(DispatchState)
        assert (state.number, state.next_draw, state.trained, state.version) == (2, 4, 2, 1)
        assert state.redo == (LostDraw(draw=3, num_candidates=3, rule="shortest"),)
        assert state.open == (OpenGroup(group_id=2, draw=2, prompt_id=PROMPT_IDS[2]),)
        assert state.first_group >= 4096 and isinstance(told, DropBelow) and 4 <= told.group_id <= state.first_group
        answer = await w.groups.recv()
        assert isinstance(answer, StateTaken) and (answer.epoch, answer.over) == (1, ())
        records = w.records(live=True)
        assert len(records) <= state.ledger_records  # with the heads of two segments
        assert state.ledger_records == len(records) + 2

        await w.finish(3)  # of the lost group, late
        await w.plan(state.first_group, draw=3)
        await w.finish(state.first_group)
        again = await w.train_group()
        assert (again.group_id, again.epoch) == (state.first_group, 1)
        await w.steps.send(StepDone(version=2, group_ids=(2, state.first_group)))
        assert [(await w.reply(GroupOutcome)).outcome for _ in range(2)] == ["trained", "trained"]
        summary = await w.stop()
        records = w.records()
        ends = [record for record in records if isinstance(record, CandidateEnded)]
        assert {(e.state, e.reason) for e in ends if e.candidate_id // 1024 == 3} == {("failed", "selector_lost")}
        assert summary["rollouts/trained"] == 8 and summary["rollouts/failed"] == summary["failed/selector_lost"] == 3
        assert summary["rollouts/generated"] == 15 == len(ends) and summary["groups/trained"] == 4
        assert summary["response_length/last"] == 5.0 and summary["reward/first"] == 0.0
        assert [r.cut_bytes for r in records if isinstance(r, RunReopened)] == [1]
        assert not [report for report in w.start.reports if isinstance(report, Warn)]

    play(scene)


def test_a_group_that_nobody_has_any_more_starts_again(play: Play) -> None:
    async def scene(w: World) -> None:
        for group_id in range(2):
            await w.plan(group_id, draw=group_id)
            await w.finish(group_id)
        for _ in range(2):
            await w.train_group()
        await w.kill()
        await w.begin(Start(1))
        await w.plans.send(AllocatorHello(number=2))
        await w.steps.send(LearnerState(epoch=1, version=0, received=(1,)))  # group 0 was still on its way to it
        state = await w.reply(DispatchState)
        assert [group.group_id for group in state.open] == [1]
        assert [lost.draw for lost in state.redo] == [0]
        await w.plan(state.first_group, draw=0)
        await w.finish(state.first_group)
        assert isinstance(await w.groups.recv(), StateTaken)
        assert (await w.train_group()).group_id == state.first_group
        await w.steps.send(StepDone(version=1, group_ids=(1, state.first_group)))
        assert (await w.reply(GroupOutcome)).outcome == "trained"
        summary = await w.stop()
        w.records()
        assert (summary["groups/trained"], summary["groups/stale"]) == (2, 1)

    play(scene)


def test_killed_before_anything_was_written_it_begins_the_run(play: Play) -> None:
    async def scene(w: World) -> None:
        await w.kill()
        for path in w.folder.glob("*.msgpack"):
            path.write_bytes(b"")
        await w.begin(Start(1))
        await w.plans.send(AllocatorHello(number=2))
        assert (await w.reply(DispatchState)).first_group == 0  # nobody is waited for
        await w.plan(0, draw=0)
        await w.stop()
        assert isinstance(w.records()[0], RunOpened)

    play(scene)


def test_killed_again_and_again_it_loses_nothing_that_was_trained(play: Play) -> None:
    async def scene(w: World) -> None:
        first = 0
        done: list[TrainedStep] = []
        received: list[int] = []
        for number in range(1, 4):
            await w.plan(first, draw=number - 1)
            await w.finish(first)
            received.append((await w.train_group()).group_id)
            if len(received) == 2:
                done.append(TrainedStep(len(done) + 1, tuple(received)))
                received.clear()
            await w.kill(torn=b"\x93" * (number % 2))
            await w.begin(Start(number))
            await w.plans.send(AllocatorHello(number=1 + number))
            await w.steps.send(
                LearnerState(epoch=number, version=len(done), steps=tuple(done), received=tuple(received))
            )
            state = await w.reply(DispatchState)
            assert (state.next_draw, state.redo, state.trained) == (number, (), 2 * len(done))
            assert isinstance(await w.groups.recv(), StateTaken)
            first = state.first_group
        summary = await w.stop()
        assert summary["groups/trained"] == 2 and summary["rollouts/trained"] == 4
        assert summary["rollouts/cancelled_shutdown"] == 2  # of the group that waited for another one
        assert sum(isinstance(record, RunReopened) for record in w.records()) == 3

    play(scene)


def test_a_closed_run_goes_on_when_it_is_resumed(play: Play) -> None:
    async def scene(w: World) -> None:
        for group_id in range(2):
            await w.plan(group_id, draw=group_id)
        await w.finish(0)
        await w.train_group()
        await w.stop()
        w.records()
        await w.begin(Start(0, resumed=True))
        await w.plans.send(AllocatorHello(number=1))
        await w.steps.send(LearnerState(epoch=1, version=0, received=(0,)))
        state = await w.reply(DispatchState)
        assert [lost.draw for lost in state.redo] == [0, 1] and state.open == ()
        answer = await w.groups.recv()
        assert isinstance(answer, StateTaken) and answer.over == (0,)  # its end is in the ledger
        summary = await w.stop()
        assert summary["rollouts/cancelled_shutdown"] == 5 and summary["rollouts/rejected"] == 1
        w.records()

    play(scene)


def test_a_step_whose_groups_were_closed_without_it_counts_all_the_same(play: Play) -> None:
    async def scene(w: World) -> None:
        for group_id in range(2):
            await w.plan(group_id, draw=group_id)
            await w.finish(group_id)
            await w.train_group()
        await w.stop()  # while the learner is at work on the step, which nobody waits for after a fault
        await w.begin(Start(0, resumed=True))
        await w.plans.send(AllocatorHello(number=1))
        await w.steps.send(LearnerState(epoch=1, version=1, steps=(TrainedStep(1, (0, 1)),)))
        state = await w.reply(DispatchState)
        assert (state.version, state.trained, len(state.redo)) == (1, 2, 2)
        assert isinstance(await w.groups.recv(), StateTaken)
        await w.plan(state.first_group, draw=0)
        await w.finish(state.first_group)
        assert (await w.train_group()).step == 1
        await w.stop()
        w.records()

    play(scene)


def test_it_says_so_when_the_learner_is_not_heard_of(play: Play) -> None:
    async def scene(w: World) -> None:
        await w.plan(0, draw=0)
        await w.kill()
        await w.begin(Start(1))
        assert w.start.look().pending[0].whom == "learner-0"
        warning = await w.start.warned
        assert warning.text == "nothing is dispatched: the learner has not said for 0.1 s what it has trained"
        await w.steps.send(LearnerState(epoch=1, version=0))
        assert isinstance(await w.groups.recv(), StateTaken)
        await w.stop()
        w.records()

    play(scene, silence_s=0.1)
