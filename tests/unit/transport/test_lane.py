"""Turns are taken in order, and a cancelled one has no effect."""

from __future__ import annotations

import asyncio
import random

import pytest

from darts_async.transport.lane import Lane


async def _run(seed: int) -> tuple[list[int], list[int]]:
    """Ten tasks wait for units of a resource that appear one by one; some tasks are cancelled at random moments."""
    chance = random.Random(seed)
    lane, units, taken = Lane(), [0], []

    def attempt() -> int | None:
        if units[0] == 0:
            return None
        units[0] -= 1
        return 1

    async def worker(number: int) -> None:
        await lane.take_turn(attempt)
        taken.append(number)

    tasks = [asyncio.ensure_future(worker(number)) for number in range(10)]
    await asyncio.sleep(0)
    assert len(lane) == 10
    cancelled = chance.sample(range(10), 4)
    moves = [("unit", 0)] * 6 + [("cancel", number) for number in cancelled]
    chance.shuffle(moves)
    for move, number in moves:
        if move == "unit":
            units[0] += 1
            lane.wake()
        else:
            tasks[number].cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    for _ in range(30):  # each turn of the loop moves the lane on by one at least
        await asyncio.sleep(0)
    really_cancelled = [number for number, task in enumerate(tasks) if task.cancelled()]
    for task in tasks:  # a cancel that came too late leaves one task without a unit
        task.cancel()
    await asyncio.wait(tasks)
    return taken, really_cancelled


@pytest.mark.parametrize("seed", range(40))
async def test_units_go_to_the_first_who_still_waits(seed: int) -> None:
    taken, cancelled = await _run(seed)
    assert taken == sorted(taken)
    assert set(taken).isdisjoint(cancelled)
    assert len(taken) == 6, "somebody still waited although there was a unit"


async def test_what_an_attempt_raises_reaches_its_task_and_the_next_goes_on() -> None:
    lane = Lane()
    answers = [ValueError("first"), 2]

    def attempt() -> int | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    first = asyncio.ensure_future(lane.take_turn(attempt))
    second = asyncio.ensure_future(lane.take_turn(attempt))
    await asyncio.sleep(0)
    lane.wake()
    with pytest.raises(ValueError, match="first"):
        await first
    assert await asyncio.wait_for(second, 1.0) == 2
