"""The queue between decisions and their sender."""

from __future__ import annotations

import asyncio

from darts_async.runtime.outbox import Outbox


async def test_order_and_depth() -> None:
    outbox: Outbox[int] = Outbox(2)
    outbox.put((1, 2, 3))
    assert outbox.depth == 3
    assert [await outbox.take() for _ in range(3)] == [1, 2, 3]


async def test_producers_wait_for_room_and_are_let_go_at_the_end() -> None:
    outbox: Outbox[int] = Outbox(2)
    await outbox.room()
    outbox.put((1, 2))
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await outbox.take()
    await waiting
    outbox.put((3,))
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.release()
    await waiting
    outbox.put((4, 5, 6))
    await outbox.room()


async def test_a_cancelled_take_loses_nothing() -> None:
    outbox: Outbox[int] = Outbox(2)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put((1,))
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert await outbox.take() == 1
