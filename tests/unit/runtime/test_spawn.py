"""Processes started by several threads with a loop each."""

import asyncio
import threading

import uvloop

from darts_async.runtime.spawn import spawn


def test_loops_of_several_threads_take_turns():
    ended: list[int | None] = []
    failed: list[Exception] = []

    async def start() -> None:
        # Two at a time in each thread: one that has its turn must not keep out the other one.
        async def some() -> None:
            for _ in range(15):
                process = await spawn("true")
                ended.append(await process.wait())

        await asyncio.gather(some(), some())

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(start())
        except RuntimeError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert ended == [0] * 90
