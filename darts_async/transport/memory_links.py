"""In-memory twins of the ZeroMQ links: the same contract within one event loop, without bytes.

Messages are passed on as the objects they are (an array stays writable and shared: treat messages as frozen), unless a
link is given codecs: then each message is encoded by `send` and decoded by `recv`, so that a test notices a message
that could not have travelled.

Where they differ from ZeroMQ: the bound is exactly `hwm` messages for each sender (ZeroMQ has one queue at each end and
the kernel's between), a dealer is known to its hub as soon as it is made, and taking a name over breaks the old end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from darts_async.errors import LinkBroken, LinkClosed, ProtocolError
from darts_async.transport.codec import Codec
from darts_async.transport.lane import BURST, Lane
from darts_async.transport.links import LinkStats
from darts_async.transport.memory_pipe import MemoryPipe
from darts_async.transport.refusals import Refusals

S = TypeVar("S")
R = TypeVar("R")


class _MemoryLink:
    """What every link end has: counters, a close, and why it is of no use any more."""

    def __init__(self, inbound: MemoryPipe[Any] | None) -> None:
        self._inbound = inbound
        self._stats = LinkStats()
        self._refusals = Refusals("a link in memory")
        self._blocked: list[Lane] = []
        self._closed = False
        self._broken = ""
        self._burst = 0

    @property
    def stats(self) -> LinkStats:
        """The counters, with the depth of this moment (bytes are counted only where there is a codec)."""
        self._stats.depth = len(self._blocked) + (0 if self._inbound is None else len(self._inbound))
        return self._stats

    async def close(self, linger_s: float = 1.0) -> None:  # noqa: ARG002 - what was sent has arrived already
        """Close this end and wake whoever waits at it. May be called again."""
        self._closed = True
        self._wake_everybody()

    def break_off(self, reason: str) -> None:
        """Break this end from outside: whoever uses it gets `LinkBroken`."""
        self._broken = reason
        self._wake_everybody()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _wake_everybody(self) -> None:
        for lane in self._blocked:
            lane.wake_all()
        if self._inbound is not None:
            self._inbound.readers.wake_all()

    def _check(self) -> None:
        if self._closed:
            raise LinkClosed("this side closed the link")
        if self._broken:
            raise LinkBroken(self._broken)

    async def _put(self, pipe: MemoryPipe[S], writer: str, message: S, check: Callable[[], None]) -> None:
        def attempt() -> bool | None:
            check()
            return pipe.put(writer, item)

        await self._give_way()
        item, size = pipe.pack(message)
        if writer in pipe.writers or attempt() is None:
            lane = pipe.writers[writer]
            self._blocked.append(lane)
            try:
                await lane.take_turn(attempt)
            finally:
                self._blocked.remove(lane)
                if not lane.turns and pipe.writers.get(writer) is lane:
                    del pipe.writers[writer]
        self._stats.sent += 1
        self._stats.sent_bytes += size

    async def _get(self, pipe: MemoryPipe[R]) -> tuple[str, R]:
        def attempt() -> tuple[str, Any] | None:
            self._check()
            return pipe.take()

        while True:
            await self._give_way()
            taken = None if pipe.readers.turns else attempt()
            if taken is None:
                taken = await pipe.readers.take_turn(attempt)
            writer, item = taken
            try:
                message, size = pipe.unpack(item)
            except ProtocolError as error:
                self._refusals.refuse(writer.encode(), error)
                self._stats.dropped = self._refusals.count
                continue
            self._stats.received += 1
            self._stats.received_bytes += size
            return writer, message

    async def _give_way(self) -> None:
        self._burst += 1
        if self._burst > BURST:
            self._burst = 0
            await asyncio.sleep(0)


class MemorySender(_MemoryLink, Generic[S]):
    """Implements `links.Sender`. Made by `MemoryStream.sender`."""

    def __init__(self, pipe: MemoryPipe[S], writer: str) -> None:
        super().__init__(None)
        self._pipe = pipe
        self._writer = writer

    async def send(self, message: S) -> None:
        """Hand a message over; wait while `hwm` messages of this sender wait."""
        await self._put(self._pipe, self._writer, message, self._check)


class MemoryReceiver(_MemoryLink, Generic[R]):
    """Implements `links.Receiver`. Made by `MemoryStream.receiver`."""

    def __init__(self, pipe: MemoryPipe[R]) -> None:
        super().__init__(pipe)
        self._pipe = pipe

    async def recv(self) -> R:
        """Return the next message."""
        return (await self._get(self._pipe))[1]


class MemoryStream(Generic[S]):
    """A stream in memory: any number of senders, one receiver at a time."""

    def __init__(self, *, hwm: int = 1024, codec: Codec[S] | None = None) -> None:
        self._pipe: MemoryPipe[S] = MemoryPipe(hwm, codec)
        self._senders = 0

    def sender(self) -> MemorySender[S]:
        """Return a new sending end."""
        self._senders += 1
        return MemorySender(self._pipe, f"sender {self._senders}")

    def receiver(self) -> MemoryReceiver[S]:
        """Return a receiving end. What one that was closed has left in the queue, the next one gets."""
        return MemoryReceiver(self._pipe)


class MemoryDealer(_MemoryLink, Generic[S, R]):
    """Implements `links.Dealer`. Made by `MemoryExchange.dealer`."""

    def __init__(
        self, name: str, outbound: MemoryPipe[S], inbound: MemoryPipe[R], leave: Callable[[MemoryDealer[S, R]], None]
    ) -> None:
        super().__init__(inbound)
        self.name = name
        self._outbound = outbound
        self._pipe = inbound
        self._leave = leave

    async def send(self, message: S) -> None:
        """Hand a message to the hub; wait while `hwm` messages of this dealer wait there."""
        await self._put(self._outbound, self.name, message, self._check)

    async def recv(self) -> R:
        """Return the hub's next message."""
        return (await self._get(self._pipe))[1]

    async def close(self, linger_s: float = 1.0) -> None:
        """Close; from now on the hub's sends to this name raise `LinkBroken`."""
        self._leave(self)
        await super().close(linger_s)


class MemoryHub(_MemoryLink, Generic[S, R]):
    """Implements `links.Hub`. Made by `MemoryExchange`."""

    def __init__(self, inbound: MemoryPipe[R], pipe_to: Callable[[str], MemoryPipe[S]]) -> None:
        super().__init__(inbound)
        self._pipe = inbound
        self._pipe_to = pipe_to

    async def send(self, peer: str, message: S) -> None:
        """Hand a message for one dealer over; wait while `hwm` wait there. `LinkBroken` if it is not there."""

        def check() -> None:
            self._check()
            self._pipe_to(peer)

        check()
        await self._put(self._pipe_to(peer), peer, message, check)

    async def recv(self) -> tuple[str, R]:
        """Return a dealer's name and its next message."""
        return await self._get(self._pipe)


class MemoryExchange(Generic[S, R]):
    """A hub (`.hub`) and its dealers in memory. `send` and `receive` are the hub's directions."""

    def __init__(self, *, hwm: int = 1024, send: Codec[S] | None = None, receive: Codec[R] | None = None) -> None:
        self._hwm = hwm
        self._send = send
        self._to_hub: MemoryPipe[R] = MemoryPipe(hwm, receive)
        self._from_hub: dict[str, MemoryPipe[S]] = {}
        self._dealers: dict[str, MemoryDealer[R, S]] = {}
        self.hub: MemoryHub[S, R] = MemoryHub(self._to_hub, self._pipe_to)

    def dealer(self, name: str) -> MemoryDealer[R, S]:
        """Return a new dealer. One that had the name is broken off; what waited for it is lost, as in a restart."""
        if (old := self._dealers.get(name)) is not None:
            self._leave(old)
            old.break_off(f"another dealer took the name {name!r} over")
        inbound = self._from_hub.setdefault(name, MemoryPipe(self._hwm, self._send))
        dealer = self._dealers[name] = MemoryDealer(name, self._to_hub, inbound, self._leave)
        return dealer

    def _pipe_to(self, peer: str) -> MemoryPipe[S]:
        if peer not in self._dealers:
            raise LinkBroken(f"{peer!r} is not connected")
        return self._from_hub[peer]

    def _leave(self, dealer: MemoryDealer[R, S]) -> None:
        if self._dealers.get(dealer.name) is dealer:
            del self._dealers[dealer.name]
            self._from_hub[dealer.name].clear()
