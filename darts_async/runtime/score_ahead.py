"""The learner's side of token streaming: chunks from the link to the frozen policies, scored while nothing else is.

Runs on the event loop; the scoring itself is a job of the torch thread. Invariants: gradients and updates never wait
for more than the one batch that is being scored when they are due; what waits to be scored is bounded, beyond it the
link is not read (the generators then give streams up); nothing is scored once the learner has stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol

from darts_async.messages import MAX_CANDIDATES, ChunkNews, ChunksDropped
from darts_async.transport.links import Receiver

__all__ = ["FrozenScorer", "ScoreAhead"]

_WAITING: Final = 1024
"""Chunks and notices that may wait for the torch thread."""


class FrozenScorer(Protocol):
    """What `engines.frozen.FrozenPolicies` offers; `put` from any thread, `score_ahead` on the torch thread."""

    @property
    def num_waiting(self) -> int:
        """What was put and not taken yet."""

    def put(self, news: ChunkNews) -> None:
        """Hand over what was heard of a streamed response."""

    def score_ahead(self, go_on: Callable[[], bool]) -> bool:
        """Score what has arrived; return whether `go_on` said no while something was left."""


class ScoreAhead:
    """Between the chunks link and a scorer."""

    def __init__(
        self, chunks: Receiver[ChunkNews], scorer: FrozenScorer, on_torch: Callable[..., Awaitable[Any]]
    ) -> None:
        """`on_torch(function, *arguments)` runs a function on the torch thread."""
        self._chunks = chunks
        self._scorer = scorer
        self._on_torch = on_torch
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._free = asyncio.Event()
        """The torch thread has nothing else to do."""
        self._free.set()
        self._closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Score ahead while the body runs. Raises what the link or the scorer raises."""
        async with asyncio.TaskGroup() as tasks:
            jobs = [tasks.create_task(self._take()), tasks.create_task(self._score())]
            try:
                yield
            finally:
                self._closed = True  # a job that is running ends after its batch
                for job in jobs:
                    job.cancel()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The torch thread belongs to gradients and updates while the body runs."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()
            self._room.set()
            self._news.set()

    def drop(self, candidate_ids: Iterable[int]) -> None:
        """These will not be trained on: free what is kept of them."""
        ids = tuple(candidate_ids)
        for start in range(0, len(ids), MAX_CANDIDATES):
            self._scorer.put(ChunksDropped(candidate_ids=ids[start : start + MAX_CANDIDATES]))
        self._news.set()

    def _goes_on(self) -> bool:
        return self._free.is_set() and not self._closed

    async def _take(self) -> None:
        while True:
            self._scorer.put(await self._chunks.recv())
            self._news.set()
            while self._scorer.num_waiting >= _WAITING:
                self._room.clear()
                await self._room.wait()

    async def _score(self) -> None:
        while True:
            await self._news.wait()
            await self._free.wait()
            self._news.clear()
            if await self._on_torch(self._scorer.score_ahead, self._goes_on):
                self._news.set()
            self._room.set()
