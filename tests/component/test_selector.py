"""The selector on in-memory links, with real reward processes and the real task; the other roles are played here."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop

from actors.selector import run
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import CandidateReplaced, GroupPlanned
from darts_async.algorithms.selection import survivor_draw
from darts_async.config import Config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.config.rules import resolve
from darts_async.errors import RunFailed
from darts_async.messages import (
    LEDGER_STATES,
    MAX_CANDIDATES,
    AllocatorHello,
    CandidatePlaced,
    DispatchState,
    DropBelow,
    EvalResult,
    FromAllocatorToSelector,
    FromLearner,
    GeneratorHello,
    GroupComplete,
    GroupOutcome,
    GroupPlan,
    GroupSwept,
    LostDraw,
    Message,
    ObservedLength,
    PlanAccepted,
    PlanReply,
    Progress,
    ReplaceCandidate,
    RoleLost,
    RolloutEnded,
    RoundsState,
    StepDone,
    StepMetrics,
    StreamEnd,
    ToGenerator,
    ToSelector,
    TrainGroup,
    Trajectory,
    VersionSpan,
    Warn,
    candidate_id,
    index_of,
)
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.runtime.links import SelectorLinks
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryDealer, MemoryExchange, MemoryStream

Scene = Callable[["Stage"], Coroutine[Any, Any, None]]
Play = Callable[..., None]

DEADLINE_S = 30.0
CAP = 64
TASK = load_task("chain_arithmetic", {})
PROMPTS = {prompt.prompt_id: prompt for prompt in TASK.train_prompts()}
PROMPT_IDS = list(PROMPTS)
TOKENIZER = ChatTokenizer(QUICKSTART_POLICY)


def selector_config(folder: Path, **sections: dict[str, Any]) -> Config:
    document: dict[str, Any] = {
        "run": {"name": "r", "dir": str(folder), "steps": 3, "seed": 5},
        "model": {"max_response_tokens": CAP},
        "group": {"size": 4, "keep_longest": 1, "groups_per_step": 2},
        "selection": {"rule": "survivor"},
        "generator": {"replicas": 2},
        "launch": {"drain_timeout_s": 4.0},
    }
    for name, values in sections.items():
        document[name] = document.get(name, {}) | values
    return resolve(Config.model_validate(document))


class StandInSupervisor:
    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.incarnation = 0
        self.resumed = False
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.stop_reason = ""
        self.state = ""
        self.gauges: dict[str, float] = {}
        self.is_ready = asyncio.Event()
        self.reports: list[Message] = []
        self.summary: dict[str, float] | None = None

    async def ready(self) -> None:
        self.is_ready.set()

    async def send(self, message: Message) -> None:
        self.reports.append(message)

    async def finish(self, summary: dict[str, float]) -> None:
        self.summary = summary


@dataclass
class Stage:
    """Everyone's ends of the selector's links."""

    config: Config
    supervisor: StandInSupervisor
    plans: MemoryDealer[FromAllocatorToSelector, PlanReply]
    streams: list[Any]
    """Per replica, the sender of what the selector takes in."""
    cancels: list[MemoryDealer[GeneratorHello, ToGenerator]]
    groups: Any
    steps: Any
    selector: asyncio.Task[None]
    replies: list[PlanReply] = field(default_factory=list)

    async def reply(self, kind: type[PlanReply]) -> Any:
        """The next reply of one kind, those before it put by."""
        while True:
            message = await self.plans.recv()
            self.replies.append(message)
            if isinstance(message, kind):
                return message

    async def first_reply(self, kind: type[PlanReply]) -> Any:
        """The first reply of one kind since the start, be it one of those put by."""
        return next((message for message in self.replies if isinstance(message, kind)), None) or await self.reply(kind)

    async def plan(self, group_id: int, num: int = 6, **options: Any) -> None:
        """Plan a group and see it accepted."""
        fields: dict[str, Any] = {
            "prompt_id": PROMPT_IDS[group_id % len(PROMPT_IDS)],
            "rule": self.config.selection.rule,
            "group_size": self.config.group.size,
            "keep_longest": self.config.group.keep_longest,
            "dispatch_version": 0,
            "prompt_tokens": np.arange(3, dtype=np.int32),
        }
        ids = tuple(candidate_id(group_id, index) for index in range(num))
        await self.plans.send(GroupPlan(group_id=group_id, draw=group_id, candidate_ids=ids, **(fields | options)))
        assert (await self.reply(PlanAccepted)).group_id == group_id

    async def finish(self, group_id: int, index: int, length: int, *, replica: int = 0, right: bool = False) -> None:
        await self.streams[replica].send(trajectory(group_id, index, length, replica=replica, right=right))

    async def stop(self, reason: str = "done", *, silent: tuple[str, ...] = ()) -> dict[str, float]:
        """Stop the run, end the streams (but of `silent` roles), and return the summary."""
        self.supervisor.stop_reason = reason
        self.supervisor.stopping.set()
        for replica, stream in enumerate(self.streams):
            if f"generator-{replica}" not in silent:
                await stream.send(StreamEnd(role="generator", rank=replica))
        if "learner" not in silent:
            await self.steps.send(StreamEnd(role="learner", rank=0))
        await self.selector
        assert self.supervisor.summary is not None
        return self.supervisor.summary

    def ledger(self) -> list[dict[str, Any]]:
        """The records; they are checked on the way."""
        reader, audit = LedgerReader(Path(self.config.run.dir) / "r" / "ledger", live=False), LedgerAudit()
        records = []
        for record in reader:
            audit.feed(record)
            records.append(msgspec.to_builtins(record))
        audit.finish(live=False)
        assert audit.violations == []
        return records


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Play a scene on one kind of event loop."""

    def on_loop(scene: Scene, *, hwm: int = 64, **sections: dict[str, Any]) -> None:
        async def whole() -> None:
            async with asyncio.timeout(DEADLINE_S), stage(selector_config(tmp_path, **sections), hwm) as set_up:
                await scene(set_up)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(whole())

    return on_loop


@asynccontextmanager
async def stage(config: Config, hwm: int = 64) -> AsyncIterator[Stage]:
    plans: MemoryExchange[PlanReply, FromAllocatorToSelector] = MemoryExchange(
        hwm=hwm, send=Codec(PlanReply), receive=Codec(FromAllocatorToSelector)
    )
    cancels: MemoryExchange[ToGenerator, GeneratorHello] = MemoryExchange(
        hwm=hwm, send=Codec(ToGenerator), receive=Codec(GeneratorHello)
    )
    trajectories: MemoryStream[ToSelector] = MemoryStream(hwm=hwm, codec=Codec(ToSelector))
    groups: MemoryStream[TrainGroup | StreamEnd] = MemoryStream(hwm=hwm, codec=Codec(TrainGroup | StreamEnd))
    steps: MemoryStream[FromLearner] = MemoryStream(hwm=hwm, codec=Codec(FromLearner))
    supervisor = StandInSupervisor()
    links = SelectorLinks(
        rank=0,
        plans=plans.hub,
        trajectories=trajectories.receiver(),
        cancels=cancels.hub,
        groups=groups.sender(),
        steps=steps.receiver(),
        supervisor=supervisor,
    )
    dealers = [cancels.dealer(f"generator-{replica}") for replica in range(config.generator.replicas)]
    selector = asyncio.create_task(run(links, config))
    ready = asyncio.create_task(supervisor.is_ready.wait())
    try:
        await asyncio.wait((selector, ready), return_when=asyncio.FIRST_COMPLETED)
        for replica, dealer in enumerate(dealers):
            await dealer.send(GeneratorHello(replica=replica))
        yield Stage(
            config=config,
            supervisor=supervisor,
            plans=plans.dealer("allocator-0"),
            streams=[trajectories.sender() for _ in dealers],
            cancels=dealers,
            groups=groups.receiver(),
            steps=steps.sender(),
            selector=selector,
        )
    finally:
        ready.cancel()
        selector.cancel()
        await asyncio.gather(selector, return_exceptions=True)


def trajectory(
    group_id: int, index: int, length: int, *, replica: int = 0, right: bool = False, version: int = 0
) -> Trajectory:
    """A response of `length` tokens that ends with an answer, if it is to be right."""
    tokens = np.full(length, 5, dtype=np.int32)
    if right:
        answer = PROMPTS[PROMPT_IDS[group_id % len(PROMPT_IDS)]].answer
        ids = TOKENIZER._tokenizer.encode(f"#### {answer}").ids
        tokens[-len(ids) :] = ids
    return Trajectory(
        candidate_id=candidate_id(group_id, index),
        replica=replica,
        finish_reason="length" if length >= CAP else "stop",
        response_tokens=tokens,
        behaviour_logprobs=np.linspace(-1, 0, length, dtype=np.float32) - index,
        version_spans=(VersionSpan(version, 0),),
    )


def progress(replica: int, tokens: dict[int, int]) -> Progress:
    return Progress(
        replica=replica,
        candidate_ids=np.array(list(tokens), dtype=np.int64),
        num_tokens=np.array(list(tokens.values()), dtype=np.int32),
    )


def assert_balance(summary: dict[str, float], records: list[dict[str, Any]]) -> None:
    """The summary balances, and the file says the same, candidate by candidate."""
    for what in ("rollouts", "tokens"):
        assert summary[f"{what}/generated"] == sum(summary[f"{what}/{state}"] for state in LEDGER_STATES)
    planned = [c for r in records if r["kind"] == "plan" for c in r["candidate_ids"]]
    planned += [r["candidate_id"] for r in records if r["kind"] == "replace"]
    ends = [r for r in records if r["kind"] == "candidate"]
    assert Counter(planned) == Counter(end["candidate_id"] for end in ends)
    for state in LEDGER_STATES:
        mine = [end["tokens"] for end in ends if end["state"] == state]
        assert (len(mine), sum(mine)) == (summary[f"rollouts/{state}"], summary[f"tokens/{state}"])
    assert records[0]["kind"] == "open" and records[-1]["kind"] == "close"


# --- a whole run ------------------------------------------------------------------------------------------------


class StandInGenerator:
    """An engine that decodes `speed` tokens a tick for every running candidate, and obeys cancels."""

    def __init__(self, set_up: Stage, replica: int, lengths: dict[int, int], right: set[int], speed: int) -> None:
        self.stream = set_up.streams[replica]
        self.cancels = set_up.cancels[replica]
        self.replica = replica
        self.lengths = lengths
        self.right = right
        self.speed = speed
        self.running: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.work = asyncio.Event()

    def start(self, candidates: list[int]) -> None:
        self.running |= dict.fromkeys(candidates, 0)
        self.work.set()

    async def obey(self) -> None:
        while True:
            for candidate in (await self.cancels.recv()).candidate_ids:
                tokens = self.running.pop(candidate, None)
                if tokens is not None:
                    self.cancelled.add(candidate)
                    await self.stream.send(
                        RolloutEnded(
                            candidate_id=candidate,
                            replica=self.replica,
                            reason="cancelled",
                            num_tokens=tokens,
                            cancel_latency_s=0.004,
                        )
                    )

    async def decode(self) -> None:
        while True:
            if not self.running:
                self.work.clear()
                await self.work.wait()
            for candidate in list(self.running):
                tokens = self.running.get(candidate)
                if tokens is None:
                    continue
                if tokens + self.speed >= self.lengths[candidate]:
                    del self.running[candidate]
                    group_id, index = divmod(candidate, MAX_CANDIDATES)
                    await self.stream.send(
                        trajectory(
                            group_id,
                            index,
                            self.lengths[candidate],
                            replica=self.replica,
                            right=candidate in self.right,
                        )
                    )
                else:
                    self.running[candidate] = tokens + self.speed
            if self.running:
                await self.stream.send(progress(self.replica, dict(self.running)))
            for _ in range(30):  # one tick is long beside a message
                await asyncio.sleep(0)


def test_a_run_keeps_what_an_oracle_keeps_and_balances(play: Play) -> None:
    rng = random.Random(3)
    num, groups, seed = 7, range(6), 5
    lengths = {candidate_id(g, i): rng.choice([6, 9, 12, 20, 33, 60]) for g in groups for i in range(num)}
    right = {candidate for candidate in lengths if rng.random() < 0.5}
    expected = {}
    for g in groups:
        by_length = sorted((lengths[candidate_id(g, i)], i) for i in range(num))
        short, others = [i for _, i in by_length[:3]], [i for _, i in by_length[3:]]
        expected[g] = sorted([*short, min(others, key=lambda i: survivor_draw(seed, candidate_id(g, i)))])

    async def scene(set_up: Stage) -> None:
        generators = [StandInGenerator(set_up, r, lengths, right, speed=(3, 1)[r]) for r in (0, 1)]
        tasks = [asyncio.create_task(work) for g in generators for work in (g.obey(), g.decode())]
        for g in groups:
            await set_up.plan(g, num, dispatch_version=max(0, g // 2 - 1))
            generators[g % 2].start([candidate_id(g, i) for i in range(num)])
        trained: list[TrainGroup] = []
        for version in (1, 2, 3):
            step = [await set_up.groups.recv() for _ in range(2)]
            await set_up.steps.send(StepDone(version=version, group_ids=tuple(g.group_id for g in step)))
            outcomes = [await set_up.reply(GroupOutcome) for _ in step]
            assert [(o.group_id, o.outcome) for o in outcomes] == [(g.group_id, "trained") for g in step]
            trained += step
        for task in tasks:
            task.cancel()
        assert [g.step for g in trained] == [0, 0, 1, 1, 2, 2]
        for group in trained:
            kept = [index_of(candidate) for candidate in group.candidate_ids]
            assert kept == expected[group.group_id]
            assert group.lengths.tolist() == [lengths[candidate] for candidate in group.candidate_ids]
            assert group.rewards.tolist() == [float(candidate in right) for candidate in group.candidate_ids]
            start = 0
            for index, length in zip(kept, group.lengths.tolist(), strict=True):
                whole = trajectory(group.group_id, index, length, right=candidate_id(group.group_id, index) in right)
                np.testing.assert_array_equal(group.response_tokens[start : start + length], whole.response_tokens)
                np.testing.assert_array_equal(
                    group.behaviour_logprobs[start : start + length], whole.behaviour_logprobs
                )
                start += length
        assert sum(isinstance(r, GroupComplete) for r in set_up.replies) == len(groups)
        steps = [report for report in set_up.supervisor.reports if isinstance(report, StepMetrics)]
        assert [step.step for step in steps] == [0, 1, 2]
        assert steps[-1].values["response_length/kept"] < steps[-1].values["response_length/max"]
        summary = await set_up.stop()
        cancelled = [generator.cancelled for generator in generators]
        assert all(cancelled)
        # One more where a response had left its engine when the cancel came.
        assert summary["rollouts/cancelled_tail"] >= sum(map(len, cancelled))
        assert summary["rollouts/trained"] == 4 * len(groups) and summary["rollouts/generated"] == num * len(groups)
        assert summary["cancel_latency_ms/p50"] == pytest.approx(4.0)
        assert summary["tokens_saved_estimate"] > 0
        assert_balance(summary, set_up.ledger())

    play(scene, allocation={"budget": 7.0, "max": 8})


# --- single stories ------------------------------------------------------------------------------------------------


def test_what_is_accepted_or_asked_for_is_in_the_file_before(play: Play) -> None:
    """A selector that is killed has told nobody of a candidate that its ledger does not have."""

    async def scene(set_up: Stage) -> None:
        ledger = Path(set_up.config.run.dir) / "r" / "ledger"
        for group_id in range(3):
            await set_up.plan(group_id, 4)
            reader = LedgerReader(ledger)
            assert reader.live
            assert [r.group_id for r in reader if isinstance(r, GroupPlanned)] == list(range(group_id + 1))
        await set_up.streams[0].send(
            RolloutEnded(candidate_id=candidate_id(1, 2), replica=0, reason="failed", num_tokens=5)
        )
        asked = await set_up.reply(ReplaceCandidate)
        replaced = [r for r in LedgerReader(ledger) if isinstance(r, CandidateReplaced)]
        assert [(r.failed_id, r.candidate_id) for r in replaced] == [(asked.failed_id, asked.candidate_id)]
        assert_balance(await set_up.stop("interrupted"), set_up.ledger())

    play(scene)


def test_cancels_go_to_the_replica_that_has_the_group_at_once(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, rule="shortest")
        for index, length in enumerate((10, 20, 12, 11)):
            await set_up.finish(0, index, length, replica=1)
        await set_up.streams[1].send(progress(1, {candidate_id(0, 4): 20}))
        await set_up.streams[1].send(progress(1, {candidate_id(0, 5): 20}))
        # Rewards take their time in another process; the cancel does not wait for them.
        cancels = [await set_up.cancels[1].recv() for _ in range(2)]
        assert [cancel.candidate_ids for cancel in cancels] == [(candidate_id(0, 4),), (candidate_id(0, 5),)]
        assert set_up.cancels[0].stats.depth == 0
        await set_up.finish(0, 4, 25, replica=1)  # it finished before the cancel could reach it
        await set_up.finish(0, 0, 10, replica=1)  # a repeat
        await set_up.streams[1].send(
            RolloutEnded(candidate_id=candidate_id(0, 5), replica=1, reason="cancelled", num_tokens=23)
        )
        group = await set_up.groups.recv()
        assert [index_of(c) for c in group.candidate_ids] == [0, 1, 2, 3]
        await set_up.steps.send(StepDone(version=1, group_ids=(0,)))
        outcome = await set_up.reply(GroupOutcome)
        assert outcome.lengths == (
            *(ObservedLength(length, censored=False) for length in (10, 20, 12, 11)),
            *(ObservedLength(20, censored=True),) * 2,
        )
        assert outcome.rewards == (0.0, 0.0, 0.0, 0.0)
        summary = await set_up.stop()
        assert summary["tokens/trained"] == 53 and summary["tokens/cancelled_tail"] == 48
        assert_balance(summary, set_up.ledger())

    play(scene)


def test_failures_in_engine_and_reward_are_replaced_once_and_counted(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 4)
        await set_up.streams[0].send(
            RolloutEnded(
                candidate_id=candidate_id(0, 3), replica=0, reason="failed", num_tokens=9, error="out of memory"
            )
        )
        replacement = await set_up.reply(ReplaceCandidate)
        assert (replacement.failed_id, replacement.candidate_id) == (candidate_id(0, 3), candidate_id(0, 4))
        for index in (0, 1, 2, 4):
            await set_up.finish(0, index, 10 + index, right=index == 1)
        group = await set_up.groups.recv()
        assert [index_of(c) for c in group.candidate_ids] == [0, 1, 2, 4]
        assert group.rewards.tolist() == [0.0, 1.0, 0.0, 0.0]
        # No such prompt: the scorer raises for every candidate.
        await set_up.plan(1, 4, prompt_id="unheard of")
        for index in range(4):
            await set_up.finish(1, index, 10)
            assert (await set_up.reply(ReplaceCandidate)).candidate_id == candidate_id(1, 4 + index)
        for index in range(4, 8):
            await set_up.finish(1, index, 40)
        outcome = await asyncio.wait_for(set_up.reply(GroupOutcome), 5)
        assert outcome.outcome == "rejected" and outcome.group_id == 1
        assert outcome.reason == "0 of 4 candidates left"
        gauges = set_up.supervisor.gauges
        assert (gauges["failed/engine"], gauges["failed/reward_raised"]) == (1, 8)
        (warning,) = [report.text for report in set_up.supervisor.reports if isinstance(report, Warn)]  # one of eight
        assert "gave no prompt 'unheard of' here" in warning
        summary = await set_up.stop()
        assert summary["failed/engine"] == 1 and summary["failed/reward_raised"] == 8 == summary["rollouts/failed"] - 1
        assert_balance(summary, set_up.ledger())

    play(scene)


def test_a_full_link_to_the_learner_stops_neither_plans_nor_cancels_nor_books(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        for group_id in range(4):
            await set_up.plan(group_id, 5, rule="shortest")
            for index in range(4):
                await set_up.finish(group_id, index, 1)
            cancel = await set_up.cancels[0].recv()
            assert cancel.candidate_ids == (candidate_id(group_id, 4),)
            await set_up.reply(GroupComplete)
        while set_up.supervisor.gauges.get("queue/ready_groups/depth", 0) < 3:  # noqa: ASYNC110 - a gauge has no event
            await asyncio.sleep(0.01)
        for version, ids in ((1, (0, 1)), (2, (2, 3))):
            assert [(await set_up.groups.recv()).group_id for _ in ids] == list(ids)
            await set_up.steps.send(StepDone(version=version, group_ids=ids))
        for _ in range(4):
            await set_up.reply(GroupOutcome)
        summary = await set_up.stop()
        assert summary["rollouts/trained"] == 16 and summary["rollouts/cancelled_tail"] == 4
        assert_balance(summary, set_up.ledger())

    play(scene, hwm=1)


def test_plans_wait_while_the_learner_is_a_run_behind(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        for group_id in range(6):
            await set_up.plan(group_id, 2, group_size=2, rule="all", dispatch_version=group_id // 2)
            for index in range(2):
                await set_up.finish(group_id, index, 3)
            await set_up.reply(GroupComplete)
        while set_up.supervisor.gauges["queue/ready_groups/depth"] < 5:  # noqa: ASYNC110 - a gauge has no event
            await asyncio.sleep(0.01)
        planned = asyncio.create_task(set_up.plan(6, 2, group_size=2, rule="all", dispatch_version=2))
        # One plan may be in the selector's hands already; the next one has to wait.
        await planned
        waits = asyncio.create_task(set_up.plan(7, 2, group_size=2, rule="all", dispatch_version=2))
        await asyncio.sleep(0.2)
        assert not waits.done()
        for _ in range(3):
            await set_up.groups.recv()
        await waits
        await set_up.stop()

    play(scene, hwm=1)


def test_draining_does_not_wait_for_an_allocator_that_reads_nothing(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 40)
        failures = [
            RolloutEnded(candidate_id=candidate_id(0, index), replica=0, reason="failed", num_tokens=2)
            for index in range(40)
        ]

        async def report() -> None:
            for failure in failures:
                await set_up.streams[0].send(failure)

        reporting = asyncio.create_task(report())
        await asyncio.sleep(0.2)
        assert not reporting.done()  # back-pressure: 40 replacements do not fit
        set_up.supervisor.stopping.set()
        await reporting
        summary = await set_up.stop("interrupted")
        assert summary["tokens/generated"] == 80
        assert_balance(summary, set_up.ledger())

    play(scene, hwm=1, queues={"trajectory_hwm": 16})


def test_a_swept_group_is_stale_and_its_slot_goes_to_the_next(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        for group_id in range(3):
            await set_up.plan(group_id, 4)
            for index in range(4):
                await set_up.finish(group_id, index, 5)
        first = await set_up.groups.recv()
        await set_up.steps.send(GroupSwept(group_id=first.group_id, staleness=2))
        outcome = await set_up.reply(GroupOutcome)
        assert (outcome.group_id, outcome.outcome) == (first.group_id, "stale")
        others = [await set_up.groups.recv() for _ in range(2)]
        await set_up.steps.send(StepDone(version=1, group_ids=tuple(g.group_id for g in others)))
        for _ in others:
            assert (await set_up.reply(GroupOutcome)).outcome == "trained"
        summary = await set_up.stop()
        assert (summary["tokens/stale"], summary["tokens/trained"]) == (20, 40)
        assert_balance(summary, set_up.ledger())

    play(scene)


def test_evaluation_scores_everything_and_stays_out_of_the_books(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 3, purpose="eval", rule="all", group_size=3, keep_longest=0)
        await set_up.finish(0, 1, CAP)
        await set_up.finish(0, 0, 12, right=True)
        await set_up.finish(0, 0, 12, right=True)
        await set_up.streams[0].send(
            RolloutEnded(candidate_id=candidate_id(0, 2), replica=0, reason="failed", num_tokens=4)
        )
        outcome = await set_up.reply(GroupOutcome)
        assert (outcome.outcome, outcome.purpose, outcome.rewards) == ("evaluated", "eval", (1.0, 0.0))
        assert outcome.lengths == (ObservedLength(12, censored=False), ObservedLength(CAP, censored=False))
        assert not [r for r in set_up.replies if isinstance(r, ReplaceCandidate | GroupComplete)]
        summary = await set_up.stop()
        assert summary["rollouts/generated"] == summary["tokens/generated"] == 0
        assert_balance(summary, set_up.ledger())

    play(scene)


def test_strange_messages_are_counted_and_harm_nothing(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 4)
        await set_up.streams[0].send(progress(0, {candidate_id(9, 0): 3, candidate_id(0, 7): 3}))
        await set_up.finish(9, 0, 10)
        await set_up.finish(0, 7, 10)
        await set_up.steps.send(StepDone(version=1, group_ids=(0, 8)))
        await set_up.steps.send(GroupSwept(group_id=8, staleness=1))
        for index in range(4):
            await set_up.finish(0, index, 5)
        assert (await set_up.groups.recv()).group_id == 0
        await set_up.steps.send(StepDone(version=1, group_ids=(0,)))  # version 1 is taken
        await set_up.steps.send(StepDone(version=2, group_ids=(0,)))
        assert (await set_up.reply(GroupOutcome)).outcome == "trained"
        warnings = [report.text for report in set_up.supervisor.reports if isinstance(report, Warn)]
        assert warnings and all("unexpected messages" in text for text in warnings)
        summary = await set_up.stop()
        assert_balance(summary, set_up.ledger())  # a step is written down with the groups that it did train

    play(scene)


def test_an_allocator_is_told_where_dispatch_goes_on(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plans.send(AllocatorHello(number=3))
        state = await set_up.reply(DispatchState)
        assert (state.number, state.first_group, state.next_draw, state.trained, state.version) == (3, 0, 0, 0, 0)
        assert state.redo == state.open == state.evaluated == () and state.rounds == RoundsState()
        assert state.ledger_records == 2  # the head of the segment, and the opening of the run
        await set_up.plan(0, 4)
        await set_up.plans.send(
            EvalResult(label="before", policy_version=0, reward=0.5, response_length=9.0, num_rollouts=4)
        )
        await set_up.plans.send(AllocatorHello(number=4))  # it knows of nothing any more: group 0 starts again
        state = await set_up.reply(DispatchState)
        told = await set_up.cancels[1].recv()
        assert isinstance(told, DropBelow) and told.group_id == state.first_group
        assert (state.number, state.next_draw) == (4, 1) and state.first_group > 0
        assert state.redo == (LostDraw(draw=0, num_candidates=4, rule="survivor"),)
        assert state.evaluated == ((0, 0.5, 9.0),)
        for index in range(4):  # late, and known to be: no unexpected message
            await set_up.finish(0, index, 5)
        summary = await set_up.stop()
        records = set_up.ledger()
        assert summary["rollouts/failed"] == 4 and [r["reason"] for r in records if r["kind"] == "candidate"] == 4 * [
            "allocator_lost"
        ]
        assert not [report for report in set_up.supervisor.reports if isinstance(report, Warn)]

    play(scene)


def test_stopping_in_the_middle_ends_everything_as_cancelled_shutdown(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 4)
        for index in range(4):
            await set_up.finish(0, index, 10)
        assert (await set_up.groups.recv()).group_id == 0  # kept, never trained
        await set_up.plan(1, 6)
        await set_up.finish(1, 0, 7)
        await set_up.streams[1].send(progress(1, {candidate_id(1, 1): 5, candidate_id(1, 2): 6}))
        set_up.supervisor.stop_reason = "interrupted"
        set_up.supervisor.stopping.set()
        await set_up.streams[1].send(
            RolloutEnded(candidate_id=candidate_id(1, 1), replica=1, reason="cancelled", num_tokens=9)
        )
        await set_up.finish(1, 3, 11)
        summary = await set_up.stop("interrupted")
        assert summary["rollouts/cancelled_shutdown"] == summary["rollouts/generated"] == 10
        # 4 x 10 kept, 7 and 11 finished, 9 reported, 6 the last progress, two never started.
        assert summary["tokens/cancelled_shutdown"] == 40 + 7 + 11 + 9 + 6
        assert_balance(summary, set_up.ledger())
        estimated = {r["candidate_id"] for r in set_up.ledger() if r.get("estimated") and r["kind"] == "candidate"}
        assert estimated == {candidate_id(1, index) for index in (2, 4, 5)}

    play(scene)


def test_whoever_does_not_end_its_stream_is_named_and_the_books_are_closed(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 4)
        await set_up.finish(0, 0, 10)
        with pytest.raises(RunFailed, match=r"generator-1, learner-0 within launch\.drain_timeout_s = 0\.4 s"):
            await set_up.stop(silent=("generator-1", "learner"))
        assert set_up.supervisor.summary is not None
        assert_balance(set_up.supervisor.summary, set_up.ledger())

    play(scene, launch={"drain_timeout_s": 0.4})


def test_after_a_fault_nobody_is_waited_for_in_vain(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 4)
        summary = await set_up.stop("fault", silent=("generator-1", "learner"))
        assert_balance(summary, set_up.ledger())

    play(scene, launch={"drain_timeout_s": 0.4})


def test_a_stop_before_anything_was_planned_is_quick(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        set_up.supervisor.stopping.set()
        await asyncio.wait_for(set_up.selector, 3)

    play(scene)


def test_a_ledger_that_exists_ends_the_role(play: Play, tmp_path: Path) -> None:
    (tmp_path / "r" / "ledger").mkdir(parents=True)
    (tmp_path / "r" / "ledger" / "000000.msgpack").touch()

    async def scene(set_up: Stage) -> None:
        with pytest.raises(RunFailed, match="exists already"):
            await set_up.selector

    play(scene)


def test_baseline_finished_brings_the_rewards_of_all_that_finished(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 6, rule="shortest")
        for index, length in enumerate((40, 30, 10, 11, 12, 13)):
            await set_up.finish(0, index, length, right=index < 2)
        group = await set_up.groups.recv()
        assert [index_of(c) for c in group.candidate_ids] == [2, 3, 4, 5]
        assert group.rewards.tolist() == [0.0] * 4
        assert group.baseline_rewards.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        assert_balance(await set_up.stop(), set_up.ledger())

    play(scene, selection={"baseline": "finished"})


def test_a_group_without_a_signal_is_dropped_and_the_next_takes_its_place(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        for group_id in range(3):
            await set_up.plan(group_id, 5, rule="dual_end")
            for index in range(5):
                await set_up.finish(group_id, index, 30 + index, right=group_id > 0 and index == 4)
        outcome = await set_up.first_reply(GroupOutcome)  # it may have come before the last plan was accepted
        assert (outcome.group_id, outcome.outcome, outcome.reason) == (0, "rejected", "zero_variance")
        trained = [await set_up.groups.recv() for _ in range(2)]
        assert [group.group_id for group in trained] == [1, 2]
        assert [index_of(c) for c in trained[0].candidate_ids] == [0, 1, 2, 4]
        await set_up.steps.send(StepDone(version=1, group_ids=(1, 2)))
        for _ in trained:
            assert (await set_up.reply(GroupOutcome)).outcome == "trained"
        step = next(report for report in set_up.supervisor.reports if isinstance(report, StepMetrics))
        assert step.values["selection/zero_variance_share"] == pytest.approx(1 / 3)
        assert step.values["selection/pattern_ii_share"] == 1
        assert step.values["selection/last_pick_wait_max_s"] >= step.values["selection/last_pick_wait_s"] > 0
        assert "candidates/5" not in set_up.supervisor.gauges  # a gauge would outlive its step
        summary = await set_up.stop()
        assert summary["groups/rejected"] == summary["zero_variance_groups"] == 1
        assert_balance(summary, set_up.ledger())

    play(scene, selection={"zero_variance": "drop"})


def test_a_rescued_group_trains_on_the_candidate_that_differs(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 6, rule="dual_end")
        for index in range(6):
            await set_up.finish(0, index, 30 + index, right=index == 4)
        group = await set_up.groups.recv()
        assert [index_of(c) for c in group.candidate_ids] == [0, 1, 4, 5]
        assert group.rewards.tolist() == [0.0, 0.0, 1.0, 0.0]
        assert_balance(await set_up.stop(), set_up.ledger())

    play(scene, selection={"zero_variance": "rescue"})


# --- generators that are lost -------------------------------------------------------------------------------------


def lose(set_up: Stage, rank: int, incarnation: int = 0) -> None:
    set_up.supervisor.losses.put_nowait(RoleLost(role="generator", rank=rank, incarnation=incarnation))


def test_what_a_lost_generator_had_fails_once_and_the_group_goes_on_elsewhere(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 4, replica=1, rule="all", group_size=4)
        await set_up.streams[1].send(progress(1, {candidate_id(0, 0): 9, candidate_id(0, 1): 3}))
        await set_up.finish(0, 3, 7, replica=1)
        await set_up.streams[1].send(progress(1, {candidate_id(0, 0): 11}))
        await set_up.plan(1, 4, replica=0, rule="all", group_size=4)  # of the other generator: untouched
        await asyncio.sleep(0.2)  # progress moves no gauge
        lose(set_up, 1)
        replaced = [await set_up.reply(ReplaceCandidate) for _ in range(3)]
        assert [reply.failed_id for reply in replaced] == [candidate_id(0, index) for index in range(3)]
        # News of the dead that come late change nothing.
        await set_up.streams[1].send(trajectory(0, 0, 12, replica=1))
        await set_up.streams[1].send(progress(1, {candidate_id(0, 1): 30}))
        for reply, replica in zip(replaced, (0, 0, 1), strict=True):
            # One goes to the next start of the lost generator.
            await set_up.plans.send(
                CandidatePlaced(candidate_id=reply.candidate_id, replica=replica, incarnation=replica)
            )
        for reply in replaced[:2]:
            await set_up.finish(0, index_of(reply.candidate_id), 8, replica=0)
        lose(set_up, 1, incarnation=1)  # and dies with it; a replacement is not replaced
        group = await set_up.groups.recv()
        assert (group.group_id, group.lengths.tolist()) == (0, [7, 8, 8])
        await set_up.stop("interrupted", silent=("generator-1",))
        failed = [r for r in set_up.ledger() if r["kind"] == "candidate" and r["state"] == "failed"]
        assert [(index_of(r["candidate_id"]), r["tokens"], r["estimated"]) for r in failed] == [
            (0, 11, True),
            (1, 3, True),
            (2, 0, True),
            (6, 0, True),
        ]
        assert {r["reason"] for r in failed} == {"generator_lost"}

    play(scene)


def test_a_plan_or_a_placement_for_a_start_that_is_over_is_lost_at_once(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        lose(set_up, 0, incarnation=2)
        await set_up.plan(0, 4, replica=1)
        await set_up.plan(1, 4, replica=0, incarnation=2, purpose="eval", rule="all", group_size=4)
        outcome = await set_up.reply(GroupOutcome)
        assert (outcome.group_id, outcome.outcome, outcome.rewards) == (1, "evaluated", ())
        await set_up.plan(2, 4, replica=0, incarnation=1)
        replaced = [await set_up.reply(ReplaceCandidate) for _ in range(4)]
        for reply in replaced:
            await set_up.plans.send(CandidatePlaced(candidate_id=reply.candidate_id, replica=0, incarnation=2))
        outcome = await set_up.reply(GroupOutcome)
        assert (outcome.group_id, outcome.outcome) == (2, "rejected")
        summary = await set_up.stop("interrupted")
        assert_balance(summary, set_up.ledger())
        assert summary["rollouts/failed"] == 8

    play(scene)


def test_cancelled_candidates_of_a_lost_generator_end_with_their_last_progress(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 6, replica=1, rule="shortest")
        await set_up.streams[1].send(progress(1, {candidate_id(0, index): 20 + index for index in (4, 5)}))
        for index in range(4):
            await set_up.finish(0, index, 8 + index, replica=1)
        assert len((await set_up.cancels[1].recv()).candidate_ids) == 2
        lose(set_up, 1)
        while set_up.supervisor.gauges.get("tokens/cancelled_tail") != 49.0:  # noqa: ASYNC110 - a gauge has no event
            await asyncio.sleep(0.01)
        await set_up.stop("interrupted", silent=("generator-1",))
        tail = [r for r in set_up.ledger() if r["kind"] == "candidate" and r["state"] == "cancelled_tail"]
        assert [(r["tokens"], r["estimated"]) for r in tail] == [(24, True), (25, True)]

    play(scene)


def test_a_generator_that_is_back_is_waited_for_when_the_run_ends(play: Play) -> None:
    async def scene(set_up: Stage) -> None:
        await set_up.plan(0, 4, replica=0)
        lose(set_up, 1)
        await asyncio.sleep(0.1)
        await set_up.cancels[1].send(GeneratorHello(replica=1))
        await asyncio.sleep(0.1)
        with pytest.raises(RunFailed, match="no end of stream from generator-1"):
            await set_up.stop("interrupted", silent=("generator-1",))

    play(scene, launch={"drain_timeout_s": 1.0})
