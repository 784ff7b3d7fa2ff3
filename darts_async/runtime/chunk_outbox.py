"""What a generator has to tell the learner of candidates that still decode, on its way to the link.

Invariants: nothing here ever waits for the learner: beyond the limit a candidate's stream is given up, and the learner
told so, in the place of holding up decoding; the chunks of a candidate leave in order and without gaps, and none of
them after the notice that it was dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque

from darts_async.messages import MAX_CANDIDATES, ChunkNews, ChunksDropped, TrajectoryChunk

__all__ = ["ChunkOutbox"]


class ChunkOutbox:
    """First in, first out, but notices before chunks. One taker."""

    def __init__(self, limit: int) -> None:
        """`limit`: chunks that may wait. Notices are bounded by the candidates there are."""
        self._limit = limit
        self._chunks: deque[TrajectoryChunk] = deque()
        self._dropped: dict[int, None] = {}
        self._news = asyncio.Event()

    @property
    def depth(self) -> int:
        """Chunks that wait."""
        return len(self._chunks)

    def put(self, chunk: TrajectoryChunk) -> bool:
        """Add a chunk; False if there is no room: then its candidate has been dropped."""
        if len(self._chunks) >= self._limit:
            self.drop(chunk.candidate_id)
            return False
        self._chunks.append(chunk)
        self._news.set()
        return True

    def drop(self, candidate_id: int) -> None:
        """Have the learner forget a candidate of which it may have been told."""
        self._chunks = deque(chunk for chunk in self._chunks if chunk.candidate_id != candidate_id)
        self._dropped[candidate_id] = None
        self._news.set()

    async def take(self) -> ChunkNews:
        """The next message. May be cancelled without losing one."""
        while not (self._dropped or self._chunks):
            self._news.clear()
            await self._news.wait()
        if self._dropped:
            ids = tuple(self._dropped)[:MAX_CANDIDATES]
            for candidate_id in ids:
                del self._dropped[candidate_id]
            return ChunksDropped(candidate_ids=ids)
        return self._chunks.popleft()
