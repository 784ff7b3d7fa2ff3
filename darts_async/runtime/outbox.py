"""A queue between a synchronous decision and the task that sends it.

Decisions must not wait half-way (their order is the order of sending), so `put` never blocks; what keeps the queue
bounded is that whoever causes new decisions first waits for `room`. It can exceed its limit by what one message
causes, no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """First in, first out. Any number of takers."""

    def __init__(self, limit: int) -> None:
        """`limit`: items that may wait before `room` holds producers up; see `resize`."""
        self._limit: float = limit
        self._items: asyncio.Queue[T] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def depth(self) -> int:
        """Items that wait."""
        return self._items.qsize()

    def put(self, items: Iterable[T]) -> None:
        """Add items, at once."""
        for item in items:
            self._items.put_nowait(item)
        if self._items.qsize() >= self._limit:
            self._room.clear()

    async def take(self) -> T:
        """The next item. May be cancelled without losing one."""
        item = await self._items.get()
        if self._items.qsize() < self._limit:
            self._room.set()
        return item

    async def room(self) -> None:
        """Wait until fewer items wait than the limit."""
        await self._room.wait()

    @property
    def is_full(self) -> bool:
        """Whether `room` would wait."""
        return not self._room.is_set()

    def resize(self, limit: int) -> None:
        """Another limit, from now on; what waits stays."""
        self._limit = limit
        if self._items.qsize() < limit:
            self._room.set()
        else:
            self._room.clear()

    def release(self) -> None:
        """Hold nobody up any more: nothing will be taken, and nothing that matters is put."""
        self._limit = float("inf")
        self._room.set()
