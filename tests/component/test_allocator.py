"""The allocator on in-memory links: nothing leaves before its plan is accepted, phases, replacements, credits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from actors.allocator import run
from darts_async.config import load_config
from darts_async.messages import (
    AllocatorHello,
    AllocatorStarted,
    CandidatePlaced,
    Credits,
    DispatchState,
    EvalResult,
    FromAllocator,
    FromAllocatorToSelector,
    FromGenerator,
    GroupComplete,
    GroupOutcome,
    GroupPlan,
    LostDraw,
    Message,
    ObservedLength,
    OpenGroup,
    PlanAccepted,
    PlanReply,
    PolicyReply,
    PolicyUpdate,
    ReplaceCandidate,
    RoleLost,
    RolloutRequest,
    RunComplete,
    Warn,
    candidate_id,
    group_of,
)
from darts_async.runtime.links import AllocatorLinks
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange, MemoryHub

_DEADLINE_S = 20.0


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
        self.summary: dict[str, float] = {}

    async def ready(self) -> None:
        pass

    async def send(self, message: Message) -> None:
        await self.reports.put(message)

    async def finish(self, summary: dict[str, float]) -> None:
        self.summary = summary


class _Peers:
    """The test's side of the allocator's links."""

    def __init__(self) -> None:
        plans: MemoryExchange[PlanReply, FromAllocatorToSelector] = MemoryExchange(
            send=Codec(PlanReply), receive=Codec(FromAllocatorToSelector)
        )
        policy: MemoryExchange[PolicyUpdate, PolicyReply] = MemoryExchange(
            send=Codec(PolicyUpdate), receive=Codec(PolicyReply)
        )
        rollouts: MemoryExchange[FromAllocator, FromGenerator] = MemoryExchange(
            send=Codec(FromAllocator), receive=Codec(FromGenerator)
        )
        self.supervisor = _Supervisor()
        self.entered: list[EvalResult] = []
        """Scores for the ledger."""
        self.plans: MemoryHub[PlanReply, FromAllocatorToSelector] = plans.hub
        self.policy: MemoryHub[PolicyUpdate, PolicyReply] = policy.hub
        self.exchange = rollouts
        self.generator = rollouts.dealer("generator-0")
        self.links = AllocatorLinks(
            rank=0,
            plans=plans.dealer("allocator-0"),
            rollouts=rollouts.hub,
            policy=policy.dealer("allocator-0"),
            supervisor=self.supervisor,
        )

    async def reply(self, message: PlanReply) -> None:
        await self.plans.send("allocator-0", message)

    async def place(self, **state: Any) -> AllocatorHello:
        """Answer the next hello."""
        _, hello = await self.plans.recv()
        assert isinstance(hello, AllocatorHello)
        await self.reply(DispatchState(number=hello.number, **({"first_group": 0, "next_draw": 0} | state)))
        return hello

    async def start_group(self) -> tuple[GroupPlan, list[RolloutRequest]]:
        """Accept the next plan and take its requests."""
        _, plan = await self.plans.recv()
        if isinstance(plan, EvalResult):
            self.entered.append(plan)
            _, plan = await self.plans.recv()
        assert isinstance(plan, GroupPlan)
        await self.reply(PlanAccepted(group_id=plan.group_id))
        return plan, [await self.generator.recv() for _ in plan.candidate_ids]

    async def evaluated(self, plan: GroupPlan, reward: float, tokens: int) -> None:
        num = len(plan.candidate_ids)
        await self.reply(
            GroupOutcome(
                group_id=plan.group_id,
                prompt_id=plan.prompt_id,
                purpose="eval",
                outcome="evaluated",
                rewards=(reward,) * num,
                lengths=(ObservedLength(tokens, False),) * num,
            )
        )


@asynccontextmanager
async def _allocator(*overrides: tuple[str, str]) -> AsyncIterator[_Peers]:
    small = [("run.steps", "2"), ("group.groups_per_step", "2"), ("queues.in_flight_groups", "4")]
    peers = _Peers()
    config = load_config(None, [*small, ("eval.prompts", "2"), *overrides])
    task = asyncio.create_task(run(peers.links, config))
    try:
        peer, hello = await peers.policy.recv()
        assert (peer, type(hello)) == ("allocator-0", AllocatorHello)
        await peers.place()
        yield peers
        peers.supervisor.stopping.set()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_whole_run(play):
    async def scene() -> None:
        async with _allocator() as peers:
            await peers.generator.send(Credits(replica=0, granted_total=1000))
            for tokens in (10, 30):
                plan, requests = await peers.start_group()
                assert (plan.purpose, plan.rule, len(requests), plan.keep_longest) == ("eval", "all", 2, 0)
                await peers.evaluated(plan, reward=0.5, tokens=tokens)
            result = await peers.supervisor.reports.get()
            assert isinstance(result, EvalResult)
            assert (result.label, result.reward, result.response_length, result.num_rollouts) == ("before", 0.5, 20, 4)
            for version in (1, 2):
                groups = [await peers.start_group() for _ in range(4 if version == 1 else 0)]
                if version == 1:
                    live = groups
                for plan, requests in groups:
                    assert (plan.purpose, plan.rule, plan.group_size) == ("train", "survivor", 8)
                    assert plan.dispatch_version == 0
                    assert [r.candidate_id for r in requests] == list(plan.candidate_ids)
                    assert len({r.seed for r in requests}) == 12
                for plan, _ in live[:2]:
                    await peers.reply(GroupComplete(group_id=plan.group_id))
                    await peers.reply(GroupOutcome(group_id=plan.group_id, prompt_id=plan.prompt_id, outcome="trained"))
                live = live[2:]
                await peers.policy.send("allocator-0", PolicyUpdate(version=version, weights="w"))
            for _ in range(2):
                plan, requests = await peers.start_group()
                assert (plan.purpose, requests[0].min_policy_version) == ("eval", 2)
                await peers.evaluated(plan, reward=1.0, tokens=5)
            after = await peers.supervisor.reports.get()
            assert isinstance(after, EvalResult)
            assert (after.label, after.policy_version, after.reward) == ("after", 2, 1.0)
            _, entered = await peers.plans.recv()
            assert [score.label for score in (*peers.entered, entered)] == ["before", "after"]
            assert isinstance(await peers.supervisor.reports.get(), RunComplete)
        assert peers.supervisor.summary["groups_dispatched"] == 4

    play(scene())


def test_no_request_leaves_before_its_plan_is_accepted(play):
    async def scene() -> None:
        async with _allocator(("eval.prompts", "0")) as peers:
            await peers.generator.send(Credits(replica=0, granted_total=100))
            _, plan = await peers.plans.recv()
            assert isinstance(plan, GroupPlan)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peers.generator.recv(), 0.1)
            await peers.reply(PlanAccepted(group_id=plan.group_id))
            assert group_of((await peers.generator.recv()).candidate_id) == plan.group_id

    play(scene())


def test_credits_hold_a_group_back(play):
    async def scene() -> None:
        async with _allocator(("eval.prompts", "0")) as peers:
            await peers.generator.send(Credits(replica=0, granted_total=23))
            await peers.start_group()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peers.plans.recv(), 0.1)
            await peers.generator.send(Credits(replica=0, granted_total=24))
            await peers.start_group()

    play(scene())


def test_a_replacement_is_dispatched_with_a_seed_of_its_own(play):
    async def scene() -> None:
        async with _allocator(("eval.prompts", "0"), ("queues.in_flight_groups", "1")) as peers:
            await peers.generator.send(Credits(replica=0, granted_total=100))
            plan, requests = await peers.start_group()
            new = candidate_id(plan.group_id, 12)
            await peers.reply(
                ReplaceCandidate(group_id=plan.group_id, failed_id=plan.candidate_ids[3], candidate_id=new)
            )
            replacement = await peers.generator.recv()
            _, placed = await peers.plans.recv()
            assert isinstance(placed, CandidatePlaced)
            assert (placed.candidate_id, placed.replica, placed.incarnation) == (new, 0, 0)
            assert replacement.candidate_id == new
            assert replacement.seed not in {request.seed for request in requests}
            assert replacement.prompt_tokens.tolist() == requests[0].prompt_tokens.tolist()

    play(scene())


def test_dropped_groups_are_replaced_and_a_prompt_that_starves_is_reported_once(play):
    async def scene() -> None:
        async with _allocator(("eval.prompts", "0")) as peers:
            await peers.generator.send(Credits(replica=0, granted_total=10_000))
            for _ in range(13):  # far beyond the four groups that the run needs: every drop makes room
                plan, _ = await peers.start_group()
                await peers.reply(
                    GroupOutcome(group_id=plan.group_id, prompt_id="hard", outcome="rejected", reason="zero_variance")
                )
            warning = await peers.supervisor.reports.get()
            assert isinstance(warning, Warn)
            assert warning.text.startswith("10 groups in a row of prompt 'hard' ended untrained")
            for _ in range(4):
                await peers.start_group()
            assert peers.supervisor.reports.empty()
            gauges = peers.supervisor.gauges
            while "starvation/prompts" not in gauges:  # noqa: ASYNC110 - a gauge has no event
                await asyncio.sleep(0.01)
            assert gauges["starvation/prompts"] == 1 and gauges["starvation/max"] >= 10
        assert peers.supervisor.summary["starvation/max"] == 13

    play(scene())


def test_skipped_prompts_are_reported(play):
    async def scene() -> None:
        async with _allocator(("model.max_prompt_tokens", "14")) as peers:
            report = await peers.supervisor.reports.get()
            assert isinstance(report, Warn)
            assert "longer than model.max_prompt_tokens" in report.text

    play(scene())


def test_what_is_said_before_the_answer_to_the_hello_counts_for_nothing(play):
    async def scene() -> None:
        peers = _Peers()
        config = load_config(None, [("eval.prompts", "0"), ("queues.in_flight_groups", "1")])
        await peers.reply(PlanAccepted(group_id=99))
        await peers.reply(GroupOutcome(group_id=0, prompt_id="p", outcome="trained"))
        await peers.reply(DispatchState(number=0, first_group=500, next_draw=500))  # to a hello that was never said
        await peers.generator.send(Credits(replica=0, granted_total=100))
        task = asyncio.create_task(run(peers.links, config))
        try:
            _, hello = await peers.plans.recv()
            assert isinstance(hello, AllocatorHello)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peers.plans.recv(), 0.1)
            assert [wait.whom for wait in peers.links.supervisor.look().pending] == ["selector-0"]
            await peers.reply(DispatchState(number=hello.number, first_group=7, next_draw=3))
            plan, _ = await peers.start_group()
            assert (plan.group_id, plan.draw) == (7, 3)
            await peers.reply(PlanAccepted(group_id=99))  # a stranger's repeat
            peers.supervisor.stopping.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    play(scene())


def test_a_lost_generator_gets_nothing_more_and_its_replacements_go_elsewhere(play):
    async def scene() -> None:
        async with _allocator(("eval.prompts", "0"), ("queues.in_flight_groups", "1")) as peers:
            other = peers.exchange.dealer("generator-1")
            await peers.generator.send(Credits(replica=0, granted_total=12))
            plan, requests = await peers.start_group()
            assert (plan.replica, plan.incarnation, requests[0].incarnation) == (0, 0, 0)
            peers.supervisor.losses.put_nowait(RoleLost(role="generator", rank=0, incarnation=0))
            await other.send(Credits(replica=1, incarnation=2, granted_total=5))
            new = candidate_id(plan.group_id, 12)
            await peers.reply(
                ReplaceCandidate(group_id=plan.group_id, failed_id=plan.candidate_ids[0], candidate_id=new)
            )
            assert ((await other.recv()).candidate_id) == new
            _, placed = await peers.plans.recv()
            assert isinstance(placed, CandidatePlaced)
            assert (placed.candidate_id, placed.replica, placed.incarnation) == (new, 1, 2)
            # The next start begins with credits of its own; what the last one granted is void.
            await peers.generator.send(Credits(replica=0, incarnation=0, granted_total=500))
            await peers.reply(GroupComplete(group_id=plan.group_id))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peers.plans.recv(), 0.1)
            await peers.generator.send(Credits(replica=0, incarnation=1, granted_total=12))
            again, requests = await peers.start_group()
            assert (again.replica, again.incarnation, requests[0].incarnation) == (0, 1, 1)

    play(scene())


def test_a_plan_that_its_generator_does_not_survive_sends_no_request(play):
    async def scene() -> None:
        async with _allocator(("eval.prompts", "0"), ("queues.in_flight_groups", "1")) as peers:
            await peers.generator.send(Credits(replica=0, granted_total=12))
            _, plan = await peers.plans.recv()
            assert isinstance(plan, GroupPlan)
            peers.supervisor.losses.put_nowait(RoleLost(role="generator", rank=0, incarnation=0))
            await peers.generator.send(Credits(replica=0, incarnation=1, granted_total=12))
            while peers.links.rollouts.stats.depth:  # noqa: ASYNC110 - a link's depth has no event
                await asyncio.sleep(0.01)
            await peers.reply(PlanAccepted(group_id=plan.group_id))
            new = candidate_id(plan.group_id, 12)
            await peers.reply(
                ReplaceCandidate(group_id=plan.group_id, failed_id=plan.candidate_ids[0], candidate_id=new)
            )
            only = await peers.generator.recv()
            assert isinstance(only, RolloutRequest)
            assert (only.candidate_id, only.incarnation) == (new, 1)

    play(scene())


def test_a_selector_that_is_lost_takes_the_plan_under_way_with_it_and_gives_its_credits_back(play):
    async def scene() -> None:
        async with _allocator(("eval.prompts", "0"), ("queues.in_flight_groups", "1")) as peers:
            await peers.generator.send(Credits(replica=0, granted_total=12))
            _, plan = await peers.plans.recv()
            assert isinstance(plan, GroupPlan)
            peers.supervisor.losses.put_nowait(RoleLost(role="selector", rank=0, incarnation=0))
            redo = (LostDraw(draw=plan.draw, num_candidates=12, rule="survivor"),)
            hello = await peers.place(first_group=4096, next_draw=plan.draw + 1, redo=redo)
            assert hello.number == 2
            again, requests = await peers.start_group()  # there are no credits but those of the first plan
            assert (again.group_id, again.draw, again.rule) == (4096, plan.draw, "survivor")
            assert {group_of(request.candidate_id) for request in requests} == {4096}

    play(scene())


def test_another_start_voids_credits_of_the_one_before_and_goes_on_where_it_is_told(play):
    async def scene() -> None:
        peers = _Peers()
        peers.supervisor.incarnation = 1
        task = asyncio.create_task(run(peers.links, load_config(None, [("eval.prompts", "0"), ("run.steps", "4")])))
        try:
            await peers.generator.send(Credits(replica=0, granted_total=500))
            started = await peers.generator.recv()
            assert isinstance(started, AllocatorStarted) and started.incarnation == 1
            await peers.generator.send(Credits(replica=0, allocator=1, granted_total=12))
            opened = (OpenGroup(group_id=3, draw=2, prompt_id="p"),)
            await peers.place(first_group=9, next_draw=5, open=opened, trained=8, version=1)
            with pytest.raises(TimeoutError):  # it is not known yet whether training is over
                await asyncio.wait_for(peers.plans.recv(), 0.1)
            await peers.policy.send("allocator-0", PolicyUpdate(version=1, weights="w"))
            plan, requests = await peers.start_group()
            assert (plan.group_id, plan.draw, plan.dispatch_version) == (9, 5, 1)
            assert {request.allocator for request in requests} == {1}
            peers.supervisor.stopping.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    play(scene())
