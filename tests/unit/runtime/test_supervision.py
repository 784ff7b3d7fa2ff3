"""A role's side of the control link: what comes twice, or late, is heeded once."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.messages import Begin, KnobChange, KnobsTaken, RoleLost, SetKnobs, Stop
from darts_async.runtime.supervision import SupervisorClient
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
