"""The links over ZeroMQ: streams, and a ROUTER hub with named DEALER clients.

Make them inside a running event loop, by the four functions at the end; the context is the caller's. Back-pressure is
ZeroMQ's high-water mark end to end: a sender waits once `hwm` messages wait on its side and `hwm` on the receiver's
(for each peer; what the kernel's socket buffers hold comes on top). A sender with nobody to send to waits likewise.

A link has one codec for each direction. Invariant: a message leaves `recv` decoded and valid or not at all; bytes that
are not a message are dropped and counted, and `recv` goes on behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Generic, Self, TypeVar

import zmq

from darts_async.errors import ProtocolError
from darts_async.transport.codec import Codec, Frame
from darts_async.transport.endpoint import Keys
from darts_async.transport.lane import BURST
from darts_async.transport.links import LinkStats
from darts_async.transport.zmq_socket import LinkKind, LinkSocket

S = TypeVar("S")
R = TypeVar("R")

_WHOEVER = b""


class _ZmqLink:
    """What every link end has: a socket, counters, a close."""

    def __init__(self, socket: LinkSocket) -> None:
        self._socket = socket
        self._stats = LinkStats()
        self._burst = 0

    @property
    def endpoint(self) -> str:
        """Where the link is bound or connected (with the port that was chosen, for a bound `tcp://host:*`)."""
        return self._socket.endpoint

    @property
    def stats(self) -> LinkStats:
        """The counters, with the depth of this moment."""
        socket = self._socket
        self._stats.depth = len(socket.inbox) + sum(map(len, socket.writers.values()))
        self._stats.dropped = socket.refusals.count
        self._stats.refused_peers = socket.refused_peers
        return self._stats

    @property
    def waiting_bytes(self) -> int:
        """Size of the messages that wait for `recv`. Adds them up: for a look now and then."""
        return self._socket.waiting_bytes

    async def close(self, linger_s: float = 1.0) -> None:
        """Close the link. Returns when the peer has what was sent, or after `linger_s`. May be called again."""
        await self._socket.close(linger_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _give_way(self) -> None:
        self._burst = 0
        await asyncio.sleep(0)

    async def _wait_to_send(self, peer: bytes, frames: Sequence[Frame]) -> None:
        writers = self._socket.writers
        lane = writers[peer]
        try:
            await lane.take_turn(lambda: self._socket.try_send(frames))
        finally:
            if not lane.turns and writers.get(peer) is lane:
                del writers[peer]


class ZmqSender(_ZmqLink, Generic[S]):
    """Implements `links.Sender`."""

    def __init__(self, socket: LinkSocket, codec: Codec[S]) -> None:
        super().__init__(socket)
        self._send_codec = codec

    async def send(self, message: S) -> None:
        """Hand a message over; wait while there is no room. Raises `LinkClosed`, `LinkBroken`, `ProtocolError`."""
        self._burst += 1
        if self._burst > BURST:
            await self._give_way()
        frames = self._send_codec.encode(message)
        size = self._send_codec.last_bytes
        if _WHOEVER in self._socket.writers or self._socket.try_send(frames) is None:
            await self._wait_to_send(_WHOEVER, frames)
        self._stats.sent += 1
        self._stats.sent_bytes += size


class ZmqReceiver(_ZmqLink, Generic[R]):
    """Implements `links.Receiver`."""

    _frames_behind_id = True
    """The socket tells the senders apart by an id that is of no interest here."""

    def __init__(self, socket: LinkSocket, codec: Codec[R]) -> None:
        super().__init__(socket)
        self._receive_codec = codec

    async def recv(self) -> R:
        """Return the next message. Raises `LinkClosed`."""
        socket, codec = self._socket, self._receive_codec
        while True:
            self._burst += 1
            if self._burst > BURST:
                await self._give_way()
            frames = None if socket.readers.turns else socket.take()
            if frames is None:
                frames = await socket.readers.take_turn(socket.take)
            peer = frames.pop(0).bytes if self._frames_behind_id else b""
            try:
                message = codec.decode(frames)
            except ProtocolError as error:
                socket.refusals.refuse(peer, error)
                continue
            self._stats.received += 1
            self._stats.received_bytes += codec.last_bytes
            return message


class ZmqDealer(ZmqSender[S], ZmqReceiver[R]):
    """Implements `links.Dealer`."""

    _frames_behind_id = False

    def __init__(self, socket: LinkSocket, send_codec: Codec[S], receive_codec: Codec[R]) -> None:
        _ZmqLink.__init__(self, socket)
        self._send_codec = send_codec
        self._receive_codec = receive_codec


class ZmqHub(_ZmqLink, Generic[S, R]):
    """Implements `links.Hub`."""

    def __init__(
        self,
        socket: LinkSocket,
        send_codec: Codec[S],
        receive_codec: Codec[R],
        peers: Collection[str] | None = None,
    ) -> None:
        super().__init__(socket)
        self._send_codec = send_codec
        self._receive_codec = receive_codec
        self._peers = None if peers is None else frozenset(peers)

    async def send(self, peer: str, message: S) -> None:
        """Hand a message for one dealer over; wait while there is no room for it, without holding up other peers.

        Raises `LinkBroken` when the dealer is not connected (any more), `LinkClosed`, `ProtocolError`.
        """
        self._burst += 1
        if self._burst > BURST:
            await self._give_way()
        name = peer.encode()
        frames = [name, *self._send_codec.encode(message)]
        size = self._send_codec.last_bytes
        if name in self._socket.writers or self._socket.try_send(frames) is None:
            await self._wait_to_send(name, frames)
        self._stats.sent += 1
        self._stats.sent_bytes += size

    def _check(self, name: str) -> None:
        if self._peers is not None and name not in self._peers:
            raise ProtocolError("nobody of that name has a part in this link")

    async def recv(self) -> tuple[str, R]:
        """Return a dealer's name and its next message. Raises `LinkClosed`."""
        socket, codec = self._socket, self._receive_codec
        while True:
            self._burst += 1
            if self._burst > BURST:
                await self._give_way()
            frames = None if socket.readers.turns else socket.take()
            if frames is None:
                frames = await socket.readers.take_turn(socket.take)
            peer = frames.pop(0).bytes
            try:
                name = peer.decode()
                self._check(name)
                message = codec.decode(frames)
            except (UnicodeDecodeError, ProtocolError) as error:
                socket.refusals.refuse(peer, error)
                continue
            self._stats.received += 1
            self._stats.received_bytes += codec.last_bytes
            return name, message


def zmq_sender(
    context: zmq.Context[Any],
    endpoint: str,
    codec: Codec[S],
    *,
    bind: bool = False,
    hwm: int = 1024,
    keys: Keys = None,
) -> ZmqSender[S]:
    """Open the pushing end of a stream. Raises `LinkBroken` when the endpoint cannot be used."""
    socket = LinkSocket(context, LinkKind.SENDER, endpoint, bind=bind, hwm=hwm, max_bytes=codec.max_bytes, keys=keys)
    return ZmqSender(socket, codec)


def zmq_receiver(
    context: zmq.Context[Any],
    endpoint: str,
    codec: Codec[R],
    *,
    bind: bool = True,
    hwm: int = 1024,
    keys: Keys = None,
) -> ZmqReceiver[R]:
    """Open the pulling end of a stream. Raises `LinkBroken` when the endpoint cannot be used (taken, invalid)."""
    socket = LinkSocket(context, LinkKind.RECEIVER, endpoint, bind=bind, hwm=hwm, max_bytes=codec.max_bytes, keys=keys)
    return ZmqReceiver(socket, codec)


def zmq_dealer(
    context: zmq.Context[Any],
    endpoint: str,
    name: str,
    *,
    send: Codec[S],
    receive: Codec[R],
    hwm: int = 1024,
    keys: Keys = None,
) -> ZmqDealer[S, R]:
    """Connect to a hub under a name (1 to 255 bytes, unique among the hub's dealers). Raises `LinkBroken`.

    The hub can address it once its first message (or the connection itself) has reached the hub: say hello.
    """
    if not 0 < len(name.encode()) < 256 or name.startswith("\0"):
        raise ValueError(f"a dealer's name has 1 to 255 bytes and does not start with NUL: {name!r}")
    socket = LinkSocket(
        context, LinkKind.DEALER, endpoint, bind=False, hwm=hwm, max_bytes=receive.max_bytes, name=name, keys=keys
    )
    return ZmqDealer(socket, send, receive)


def zmq_hub(
    context: zmq.Context[Any],
    endpoint: str,
    *,
    send: Codec[S],
    receive: Codec[R],
    hwm: int = 1024,
    keys: Keys = None,
    peers: Collection[str] | None = None,
) -> ZmqHub[S, R]:
    """Bind a hub. `hwm` holds for each dealer. Messages of dealers that are not in `peers` are dropped and counted.

    Raises `LinkBroken` when the endpoint cannot be used.
    """
    socket = LinkSocket(context, LinkKind.HUB, endpoint, bind=True, hwm=hwm, max_bytes=receive.max_bytes, keys=keys)
    return ZmqHub(socket, send, receive, peers)
