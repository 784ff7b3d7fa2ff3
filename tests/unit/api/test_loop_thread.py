"""Work in a thread with a loop of its own can be interrupted at any moment, and its outcome is known after its end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from darts_async.api.loop_thread import LoopThread


async def _count_cancels(reached: threading.Event) -> int:
    """Returns after the second cancel."""
    cancels = 0
    reached.set()
    while cancels < 2:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancels += 1
            reached.set()
    return cancels


def test_every_interrupt_cancels_once() -> None:
    reached = threading.Event()
    thread = LoopThread(lambda: reached, _count_cancels)
    thread.start()
    for _ in range(2):
        assert reached.wait(10)
        reached.clear()
        thread.interrupt()
    assert thread.outcome.result(10) == 2
    thread.interrupt()  # too late, and no error


def test_an_interrupt_while_it_is_prepared_arrives_with_the_work() -> None:
    preparing, go_on = threading.Event(), threading.Event()

    def prepare() -> str:
        preparing.set()
        assert go_on.wait(10)
        return "prepared"

    async def work(prepared: str) -> str:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return f"{prepared}, cancelled"
        return "not cancelled"

    thread = LoopThread(prepare, work)
    thread.start()
    assert preparing.wait(10)
    thread.interrupt()
    go_on.set()
    assert thread.outcome.result(10) == "prepared, cancelled"


@pytest.mark.parametrize("where", ["prepare", "work"])
def test_an_error_comes_out(where: str) -> None:
    def prepare() -> None:
        if where == "prepare":
            raise KeyError(where)

    async def work(_: None) -> None:
        raise KeyError(where)

    thread = LoopThread(prepare, work)
    thread.start()
    with pytest.raises(KeyError, match=where):
        thread.outcome.result(10)


async def test_a_running_loop_goes_on_meanwhile() -> None:
    """A thread that is waited for from a loop, as a notebook's is."""
    reached = threading.Event()
    thread = LoopThread(lambda: reached, _count_cancels)
    thread.start()
    outcome = asyncio.wrap_future(thread.outcome)
    for _ in range(2):
        await asyncio.to_thread(reached.wait, 10)
        reached.clear()
        thread.interrupt()
    assert await outcome == 2
