"""The link contract inside one event loop: bounded, ordered, lossless, without sockets, threads or clocks.

Twins of the ZeroMQ links for tests and simulation: they run on any asyncio event loop, also on one with virtual time.
Messages are passed on as they are; with a codec they take the way through bytes as well, so that a test catches what
the wire would refuse.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Generic, TypeVar

from darts_async.errors import LinkBroken, LinkClosed
from darts_async.transport.codec import Codec
from darts_async.transport.links import LinkStats

S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")


class _Queue(Generic[T]):
    """A bounded first-in-first-out queue that can be closed; waiting in it may be cancelled without loss."""

    def __init__(self, bound: int) -> None:
        self.items: deque[T] = deque()
        self.closed = False
        self._bound = max(1, bound)
        self._changed: deque[asyncio.Future[None]] = deque()

    async def put(self, item: T) -> None:
        while len(self.items) >= self._bound and not self.closed:
            await self._wait()
        if self.closed:
            raise LinkBroken("the peer has closed the link")
        self.items.append(item)
        self._wake()
        await asyncio.sleep(0)

    async def take(self) -> T:
        while not self.items and not self.closed:
            await self._wait()
        if not self.items:
            raise LinkClosed("the link is closed")
        item = self.items.popleft()
        self._wake()
        return item

    def close(self) -> None:
        self.closed = True
        self._wake()

    async def _wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._changed = self._changed, deque()
        for future in waiting:
            if not future.done():
                future.set_result(None)


class MemorySender(Generic[S]):
    """One of a stream's senders."""

    def __init__(self, queue: _Queue[S], codec: Codec[S] | None) -> None:
        self.stats = LinkStats()
        self._queue = queue
        self._codec = codec
        self._closed = False

    async def send(self, message: S) -> None:
        """Send; wait while the stream is full."""
        if self._closed:
            raise LinkClosed("the link is closed")
        await self._queue.put(_through(self._codec, message))
        self.stats.sent += 1

    async def close(self, linger_s: float = 1.0) -> None:  # noqa: ARG002 - what was sent has arrived
        """Close this end."""
        self._closed = True


class MemoryReceiver(Generic[R]):
    """A stream's receiver."""

    def __init__(self, queue: _Queue[R]) -> None:
        self._queue = queue
        self._stats = LinkStats()

    @property
    def stats(self) -> LinkStats:
        """Counters of this end."""
        self._stats.depth = len(self._queue.items)
        return self._stats

    async def recv(self) -> R:
        """Return the next message."""
        message = await self._queue.take()
        self._stats.received += 1
        return message

    async def close(self, linger_s: float = 1.0) -> None:  # noqa: ARG002 - nothing is left to send
        """Close this end; senders get `LinkBroken`."""
        self._queue.close()


class MemoryStream(Generic[T]):
    """A PUSH -> PULL stream: one receiver, any number of senders."""

    def __init__(self, hwm: int = 1024, codec: Codec[T] | None = None) -> None:
        self._queue: _Queue[T] = _Queue(hwm)
        self._codec = codec
        self.receiver: MemoryReceiver[T] = MemoryReceiver(self._queue)

    def sender(self) -> MemorySender[T]:
        """Return one more sender."""
        return MemorySender(self._queue, self._codec)


class MemoryDealer(Generic[S, R]):
    """One named client of a memory hub."""

    def __init__(self, name: str, to_hub: _Queue[tuple[str, S]], hwm: int, codec: Codec[S] | None) -> None:
        self._name = name
        self._to_hub = to_hub
        self._codec = codec
        self._stats = LinkStats()
        self.from_hub: _Queue[R] = _Queue(hwm)

    @property
    def stats(self) -> LinkStats:
        """Counters of this end."""
        self._stats.depth = len(self.from_hub.items)
        return self._stats

    async def send(self, message: S) -> None:
        """Send to the hub."""
        if self.from_hub.closed:
            raise LinkClosed("the link is closed")
        await self._to_hub.put((self._name, _through(self._codec, message)))
        self._stats.sent += 1

    async def recv(self) -> R:
        """Return the next message of the hub."""
        message = await self.from_hub.take()
        self._stats.received += 1
        return message

    async def close(self, linger_s: float = 1.0) -> None:  # noqa: ARG002 - what was sent has arrived
        """Close this end; the hub no longer knows the name."""
        self.from_hub.close()


class MemoryHub(Generic[S, R]):
    """The addressed side: many named dealers. `dealer(name)` connects one; a name taken again replaces the old one."""

    def __init__(
        self, hwm: int = 1024, send_codec: Codec[S] | None = None, recv_codec: Codec[R] | None = None
    ) -> None:
        self._hwm = hwm
        self._send_codec = send_codec
        self._recv_codec = recv_codec
        self._from_dealers: _Queue[tuple[str, R]] = _Queue(hwm)
        self._dealers: dict[str, MemoryDealer[R, S]] = {}
        self._stats = LinkStats()

    def dealer(self, name: str) -> MemoryDealer[R, S]:
        """Connect a dealer."""
        dealer: MemoryDealer[R, S] = MemoryDealer(name, self._from_dealers, self._hwm, self._recv_codec)
        self._dealers[name] = dealer
        return dealer

    @property
    def stats(self) -> LinkStats:
        """Counters of this end."""
        self._stats.depth = len(self._from_dealers.items)
        return self._stats

    async def send(self, peer: str, message: S) -> None:
        """Send to one dealer. Unknown or closed: `LinkBroken`."""
        if self._from_dealers.closed:
            raise LinkClosed("the link is closed")
        dealer = self._dealers.get(peer)
        if dealer is None:
            raise LinkBroken(f"no peer `{peer}` is connected")
        await dealer.from_hub.put(_through(self._send_codec, message))
        self._stats.sent += 1

    async def recv(self) -> tuple[str, R]:
        """Return the next message and the name of the dealer that sent it."""
        peer, message = await self._from_dealers.take()
        self._stats.received += 1
        return peer, message

    async def close(self, linger_s: float = 1.0) -> None:  # noqa: ARG002 - what was sent has arrived
        """Close this end; dealers get `LinkBroken` when they send."""
        self._from_dealers.close()


def _through(codec: Codec[Any] | None, message: T) -> T:
    if codec is None:
        return message
    decoded: T = codec.decode([bytes(frame) for frame in codec.encode(message)])
    return decoded
