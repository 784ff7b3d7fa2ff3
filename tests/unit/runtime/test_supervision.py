"""A role's side of the control link: what comes twice, or late, is heeded once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async import clock
from darts_async.messages import Begin, KnobChange, KnobsTaken, RoleLost, SetKnobs, Stop, Warn
from darts_async.runtime.supervision import SupervisorClient
from darts_async.tracing import RoleTrace, TraceFile, record_as
from darts_async.tracing.records import DECODER, Span
from darts_async.transport.memory_links import MemoryExchange

NAME = "learner-0"


async def _told(orders: list[Any]) -> tuple[list[int], list[RoleLost], list[int], str]:
    """Values taken, losses passed on, order numbers answered, and the reason to stop, of a role that is told this."""
    exchange: MemoryExchange[Any, Any] = MemoryExchange()
    client = SupervisorClient(exchange.dealer(NAME), "learner", 0, 1, 3600.0)
    values: list[int] = []

    async def take(order: SetKnobs) -> str:
        values.extend(int(str(change.new)) for change in order.changes.values())
        return ""

    client.knobs = take
    running = asyncio.create_task(client.run())
    for order in orders:
        await exchange.hub.send(NAME, order)
    await exchange.hub.send(NAME, Stop(reason="done"))
    await client.stopping.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    answers = []
    while exchange.hub.stats.depth:
        message = (await exchange.hub.recv())[1]
        answers += [message.number] if isinstance(message, KnobsTaken) else []
    losses = [client.losses.get_nowait() for _ in range(client.losses.qsize())]
    return values, losses, answers, client.stop_reason


def _order(number: int) -> SetKnobs:
    return SetKnobs(number=number, changes={"queues.min_chunk": KnobChange(0, number)}, at_s=0.0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_repeats_of_anything_at_any_time_change_nothing(data: st.DataObject) -> None:
    said: list[Any] = [
        Begin(),
        _order(1),
        RoleLost(role="generator", rank=0, incarnation=0),
        _order(2),
        RoleLost(role="generator", rank=0, incarnation=1),
        RoleLost(role="selector", rank=0, incarnation=0),
        _order(5),
    ]
    told: list[Any] = []
    for number, message in enumerate(said):
        told += [message, *data.draw(st.lists(st.sampled_from(said[: number + 1]), max_size=3))]
    values, losses, answers, reason = asyncio.run(_told(told))
    assert values == answers == [1, 2, 5]
    assert [(loss.role, loss.incarnation) for loss in losses] == [("generator", 0), ("generator", 1), ("selector", 0)]
    assert reason == "done"


async def test_states_are_in_the_trace_and_a_full_trace_is_said_once(tmp_path: Path) -> None:
    file = TraceFile(tmp_path, NAME, limit_bytes=4000)
    trace = RoleTrace(file, NAME)
    record_as(trace)
    exchange: MemoryExchange[Any, Any] = MemoryExchange()
    client = SupervisorClient(exchange.dealer(NAME), "learner", 0, 1, 0.01)
    client.state = "waiting for groups (1/8)"
    client.state = "training step 1"
    assert client.state == "training step 1"
    file.flush()
    for _ in range(20):
        trace.lane("compute").span("optimiser", "apply step", clock.now_s())
    file.flush()
    running = asyncio.create_task(client.run())
    said = [(await exchange.hub.recv())[1] for _ in range(6)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    file.close()
    assert ["metrics.trace_mib" in message.text for message in said if isinstance(message, Warn)] == [True]
    spans = list(map(DECODER.decode, (tmp_path / f"{NAME}-0.jsonl").read_bytes().splitlines()))
    assert [(s.category, s.name) for s in spans if isinstance(s, Span)] == [
        ("state", "starting"),
        ("waiting", "waiting for groups (1/8)"),
    ]
