"""A bounded queue with one reading end and many named writers: what the in-memory links are made of.

Invariant: at most `hwm` messages of each writer are in it, in the order in which they were put. Futures only: it works
on any event loop, also one whose time is not real.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any, Generic, TypeVar

from darts_async.transport.codec import Codec
from darts_async.transport.lane import Lane

T = TypeVar("T")


class MemoryPipe(Generic[T]):
    """Messages as objects, or as the codec's frames when there is a codec."""

    def __init__(self, hwm: int, codec: Codec[T] | None) -> None:
        if hwm < 1:
            raise ValueError(f"a link's high-water mark is at least 1, got {hwm}")
        self.hwm = hwm
        self._codec = codec
        self._queue: deque[tuple[str, Any]] = deque()
        self._count: defaultdict[str, int] = defaultdict(int)
        self.readers = Lane()
        self.writers: defaultdict[str, Lane] = defaultdict(Lane)
        """Tasks that wait for room, by writer."""

    def __len__(self) -> int:
        return len(self._queue)

    def pack(self, message: T) -> tuple[Any, int]:
        """Return what to `put`, and its size in bytes (0 without a codec). Raises `ProtocolError`."""
        if self._codec is None:
            return message, 0
        return self._codec.encode(message), self._codec.last_bytes

    def unpack(self, item: Any) -> tuple[T, int]:
        """Undo `pack`. Raises `ProtocolError`."""
        if self._codec is None:
            return item, 0
        return self._codec.decode(item), self._codec.last_bytes

    def put(self, writer: str, item: Any) -> bool | None:
        """Append an item; return None if the writer has no room."""
        if self._count[writer] >= self.hwm:
            return None
        self._count[writer] += 1
        self._queue.append((writer, item))
        self.readers.wake()
        return True

    def take(self) -> tuple[str, Any] | None:
        """Return the oldest item and its writer; None if there is none."""
        if not self._queue:
            return None
        writer, item = self._queue.popleft()
        self._count[writer] -= 1
        if (lane := self.writers.get(writer)) is not None:
            lane.wake()
        return writer, item

    def clear(self) -> None:
        """Drop everything: the reading end is gone. Whoever waits for room gets to look again."""
        self._queue.clear()
        self._count.clear()
        for lane in self.writers.values():
            lane.wake_all()
