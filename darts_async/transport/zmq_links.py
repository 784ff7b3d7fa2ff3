"""The link contract over ZeroMQ: PUSH/PULL streams, and ROUTER/DEALER hubs with named peers.

A socket belongs to one `_Pump`: a callback on the socket's file descriptor that moves whole multipart messages between
ZeroMQ and two bounded queues, and never blocks. The descriptor is edge-triggered, so the pump goes on until neither
direction moves. Nobody else touches the socket, and what waits for a message waits on a queue: cancelling that loses
nothing.

The bound `hwm` of a link end is shared out: half to the queue here that `recv` takes from (which can be measured), a
quarter each to ZeroMQ's own queues on the two sides.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Generic, TypeVar

import zmq

from darts_async.errors import LinkBroken, LinkClosed
from darts_async.transport.codec import MAX_MESSAGE_BYTES, Codec, Frames
from darts_async.transport.links import LinkStats

S = TypeVar("S")
R = TypeVar("R")

_BURST = 256
"""Messages moved per callback, and immediate results per await: other tasks of the loop get their turn after that."""


_ROUTER_RETRY_S = 0.02


class _Pump:
    """Owns one ZeroMQ socket."""

    def __init__(
        self, context: zmq.Context[Any], kind: int, endpoint: str, *, bind: bool, hwm: int, identity: str = ""
    ) -> None:
        self.stats = LinkStats()
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[list[zmq.Frame]] = deque()
        self._inbox_bound = max(1, hwm // 2)
        self._outbox: dict[bytes, deque[tuple[Frames, asyncio.Future[None]]]] = {}
        self._takers: deque[asyncio.Future[None]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._closing = False
        self._closed = False
        self._immediate = 0
        self._receives = kind != zmq.PUSH
        self._addressed = kind == zmq.ROUTER
        socket = self._socket = context.socket(kind)
        socket.set_hwm(max(1, hwm // 4))
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity.encode())
        if self._addressed:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        try:
            if bind:
                socket.bind(endpoint)
            else:
                socket.connect(endpoint)
        except zmq.ZMQError as error:
            socket.close(0)
            raise LinkBroken(f"{endpoint} cannot be {'bound' if bind else 'connected to'}: {error}") from None
        self._endpoint = endpoint
        self._fd = socket.getsockopt(zmq.FD)
        self._loop.add_reader(self._fd, self._move)

    async def put(self, frames: Frames, peer: bytes = b"") -> None:
        """Hand a message to ZeroMQ, waiting while the peer's queue is full. Cancelled: it is not sent."""
        if self._closing:
            raise LinkClosed(self._endpoint)
        size = sum(len(frame) for frame in frames)
        if peer:
            frames = [peer, *frames]
        waiting = self._outbox.get(peer)
        if not waiting and self._try_send(frames):
            if self._receives and self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                self._move()  # the send has spent the descriptor's edge
            await self._breathe()
        else:
            done = self._loop.create_future()
            entry = (frames, done)
            queue = self._outbox.setdefault(peer, deque())
            queue.append(entry)
            self.stats.depth += not self._receives
            self._move()
            try:
                await done
            except asyncio.CancelledError:
                with contextlib.suppress(ValueError):
                    queue.remove(entry)
                raise
            finally:
                self.stats.depth -= not self._receives
        self.stats.sent += 1
        self.stats.sent_bytes += size

    async def take(self) -> list[zmq.Frame]:
        """Return the next message. Cancelled: the message stays."""
        if self._inbox:
            await self._breathe()
        while not self._inbox:
            if self._closed:
                raise LinkClosed(self._endpoint)
            self._immediate = 0
            taker = self._loop.create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                # Woken and cancelled at once: the wake-up is the next one's.
                self._wake_taker() if taker.done() and not taker.cancelled() else self._takers.remove(taker)
                raise
        was_full = len(self._inbox) >= self._inbox_bound
        frames = self._inbox.popleft()
        self.stats.depth = len(self._inbox)
        self.stats.received += 1
        self.stats.received_bytes += sum(len(frame) for frame in frames)
        if was_full:
            self._move()
        return frames

    async def close(self, linger_s: float) -> None:
        """Send what waits for at most `linger_s`, then close and wake whoever waits."""
        if self._closing:
            return
        waiting = [done for queue in self._outbox.values() for _, done in queue]
        self._closing = True
        if waiting:
            await asyncio.wait(waiting, timeout=linger_s)
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._retry is not None:
            self._retry.cancel()
        self._socket.close(round(linger_s * 1000))
        for queue in self._outbox.values():
            for _, done in queue:
                if not done.done():
                    done.set_exception(LinkClosed(self._endpoint))
        for taker in self._takers:
            if not taker.done():
                taker.set_result(None)
        self._takers.clear()

    async def _breathe(self) -> None:
        """Let the loop's other tasks run every so many immediate results."""
        self._immediate += 1
        if self._immediate >= _BURST:
            self._immediate = 0
            await asyncio.sleep(0)

    def _move(self) -> None:
        """Move messages both ways until nothing moves, or a burst is over.

        EVENTS is read before every try: it processes what has come in and is the truth about reading; the descriptor
        alone may have spent its edge on another call. A ROUTER cannot say which peer has become writable, so while
        one is full there is also a timer.
        """
        self._retry = None
        if self._closed:
            return
        for _ in range(_BURST):
            readable = self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN
            received = bool(readable) and self._receive_one()
            sent = bool(self._outbox) and self._send_waiting()
            if received or sent:
                continue
            events = self._socket.getsockopt(zmq.EVENTS)
            more_in = events & zmq.POLLIN and self._receives and len(self._inbox) < self._inbox_bound
            more_out = events & zmq.POLLOUT and self._outbox and not self._addressed
            if not more_in and not more_out:
                if self._outbox and self._addressed:
                    self._retry = self._loop.call_later(_ROUTER_RETRY_S, self._move)
                return
        self._loop.call_soon(self._move)

    def _receive_one(self) -> bool:
        if not self._receives or len(self._inbox) >= self._inbox_bound:
            return False
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self._inbox.append(frames)
        self.stats.depth = len(self._inbox)
        self._wake_taker()
        return True

    def _send_waiting(self) -> bool:
        sent = False
        for peer in list(self._outbox):
            queue = self._outbox[peer]
            while queue and queue[0][1].done():
                queue.popleft()  # its sender was cancelled
            if queue:
                frames, done = queue[0]
                try:
                    ready = self._try_send(frames)
                except LinkBroken as error:
                    queue.popleft()
                    done.set_exception(error)
                    ready = False
                    sent = True
                if ready:
                    queue.popleft()
                    done.set_result(None)
                    sent = True
            if not queue:
                del self._outbox[peer]
        return sent

    def _try_send(self, frames: Frames) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise LinkBroken(f"{self._endpoint}: no peer `{bytes(frames[0]).decode()}` is connected") from None
            raise LinkBroken(f"{self._endpoint}: {error}") from None
        return True

    def _wake_taker(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return


class ZmqSender(Generic[S]):
    """PUSH: the sending end of a stream."""

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, codec: Codec[S], *, bind: bool = False, hwm: int = 1024
    ) -> None:
        self._codec = codec
        self._pump = _Pump(context, zmq.PUSH, endpoint, bind=bind, hwm=hwm)

    @property
    def stats(self) -> LinkStats:
        """Counters of this end."""
        return self._pump.stats

    async def send(self, message: S) -> None:
        """Send; wait while the receiver is at its high-water mark, or not there yet."""
        await self._pump.put(self._codec.encode(message))

    async def close(self, linger_s: float = 1.0) -> None:
        """Close; see the contract."""
        await self._pump.close(linger_s)


class ZmqReceiver(Generic[R]):
    """PULL: the receiving end of a stream, fed fairly by all senders."""

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, codec: Codec[R], *, bind: bool = True, hwm: int = 1024
    ) -> None:
        self._codec = codec
        self._pump = _Pump(context, zmq.PULL, endpoint, bind=bind, hwm=hwm)

    @property
    def stats(self) -> LinkStats:
        """Counters of this end."""
        return self._pump.stats

    async def recv(self) -> R:
        """Return the next message. A `ProtocolError` is about that one message; the link goes on."""
        frames = await self._pump.take()
        return self._codec.decode([frame.buffer for frame in frames])

    async def close(self, linger_s: float = 1.0) -> None:
        """Close; see the contract."""
        await self._pump.close(linger_s)


class ZmqDealer(Generic[S, R]):
    """DEALER: one named client of a hub."""

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        name: str,
        send_codec: Codec[S],
        recv_codec: Codec[R],
        *,
        hwm: int = 1024,
    ) -> None:
        self._send_codec = send_codec
        self._recv_codec = recv_codec
        self._pump = _Pump(context, zmq.DEALER, endpoint, bind=False, hwm=hwm, identity=name)

    @property
    def stats(self) -> LinkStats:
        """Counters of this end."""
        return self._pump.stats

    async def send(self, message: S) -> None:
        """Send to the hub; wait while its queue is full."""
        await self._pump.put(self._send_codec.encode(message))

    async def recv(self) -> R:
        """Return the next message of the hub."""
        frames = await self._pump.take()
        return self._recv_codec.decode([frame.buffer for frame in frames])

    async def close(self, linger_s: float = 1.0) -> None:
        """Close; see the contract."""
        await self._pump.close(linger_s)


class ZmqHub(Generic[S, R]):
    """ROUTER: many named dealers. A dealer that comes back under its name takes over from the one before."""

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, send_codec: Codec[S], recv_codec: Codec[R], *, hwm: int = 1024
    ) -> None:
        self._send_codec = send_codec
        self._recv_codec = recv_codec
        self._pump = _Pump(context, zmq.ROUTER, endpoint, bind=True, hwm=hwm)

    @property
    def stats(self) -> LinkStats:
        """Counters of this end."""
        return self._pump.stats

    async def send(self, peer: str, message: S) -> None:
        """Send to one dealer; wait while its queue is full (others are not held up). Unknown: `LinkBroken`."""
        await self._pump.put(self._send_codec.encode(message), peer.encode())

    async def recv(self) -> tuple[str, R]:
        """Return the next message and the name of the dealer that sent it."""
        peer, *frames = await self._pump.take()
        message = self._recv_codec.decode([frame.buffer for frame in frames])
        return bytes(peer.buffer).decode("utf-8", "replace"), message

    async def close(self, linger_s: float = 1.0) -> None:
        """Close; see the contract."""
        await self._pump.close(linger_s)
