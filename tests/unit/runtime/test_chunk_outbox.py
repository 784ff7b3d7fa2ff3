"""Chunks on their way: in order, bounded, and never behind the notice that they are void."""

from __future__ import annotations

import asyncio

import numpy as np

from darts_async.messages import ChunksDropped, TrajectoryChunk
from darts_async.runtime.chunk_outbox import ChunkOutbox


def chunk(candidate: int, start: int) -> TrajectoryChunk:
    prompt = np.ones(int(start == 0), np.int32)
    tokens = np.ones(2, np.int32)
    return TrajectoryChunk(candidate_id=candidate, start=start, prompt_tokens=prompt, response_tokens=tokens)


async def taken(outbox: ChunkOutbox) -> list[tuple[int, ...]]:
    """Everything that waits: (candidate, start) of chunks, (candidate, ...) and a -1 of drops."""
    found: list[tuple[int, ...]] = []
    while True:
        try:
            async with asyncio.timeout(0.01):
                message = await outbox.take()
        except TimeoutError:
            return found
        if isinstance(message, ChunksDropped):
            found.append((*message.candidate_ids, -1))
        else:
            found.append((message.candidate_id, message.start))


async def test_first_in_first_out() -> None:
    outbox = ChunkOutbox(4)
    assert all(outbox.put(chunk(candidate, start)) for start in (0, 2) for candidate in (5, 6))
    assert await taken(outbox) == [(5, 0), (6, 0), (5, 2), (6, 2)]


async def test_a_drop_takes_the_chunks_that_wait_with_it_and_overtakes_the_others() -> None:
    outbox = ChunkOutbox(8)
    for start in (0, 2):
        outbox.put(chunk(5, start))
        outbox.put(chunk(6, start))
    outbox.drop(5)
    outbox.drop(5)
    assert await taken(outbox) == [(5, -1), (6, 0), (6, 2)]


async def test_beyond_the_limit_a_stream_is_given_up_and_the_others_go_on() -> None:
    outbox = ChunkOutbox(3)
    assert [outbox.put(chunk(c, s)) for c, s in ((5, 0), (6, 0), (5, 2), (6, 2))] == [True, True, True, False]
    assert outbox.depth == 2
    assert outbox.put(chunk(5, 4))
    assert await taken(outbox) == [(6, -1), (5, 0), (5, 2), (5, 4)]


async def test_a_taker_that_waits_is_woken() -> None:
    outbox = ChunkOutbox(1)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put(chunk(5, 0))
    assert (await taking).candidate_id == 5  # type: ignore[union-attr]
