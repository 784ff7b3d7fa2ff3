"""Where tasks stand: down to the innermost frame, and those at one place counted."""

import asyncio

from darts_async.runtime.stacks import task_stacks


async def _innermost(event: asyncio.Event) -> None:
    await event.wait()


async def _outer(event: asyncio.Event) -> None:
    await _innermost(event)


async def test_every_task_is_shown_to_where_it_waits_and_equal_ones_once():
    event = asyncio.Event()
    tasks = [asyncio.create_task(_outer(event), name=f"candidate-{number}") for number in range(500)]
    tasks.append(asyncio.create_task(asyncio.sleep(60), name="sleeper"))
    await asyncio.sleep(0)
    text = task_stacks()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    blocks = text.split("\n")
    assert blocks[0].startswith("500 tasks, one is candidate-")
    frames = [line.split()[-1] for line in blocks[1:4]]
    assert frames == ["_outer", "_innermost", "Event.wait"]
    assert "sleeper" in text
    assert len(text) < 2000
