"""One ZeroMQ socket on one event loop: whole messages in and out, never blocking, with a bounded inbox.

The socket's file descriptor wakes `_service`, which moves what has arrived into the inbox and lets blocked senders try
again. Everything that touches the socket is synchronous and takes or gives whole messages, so a cancelled task can
neither lose a message nor leave half of one.

The descriptor is edge-triggered in libzmq's own sense: it becomes readable when the socket has commands to process, and
*any* call on the socket may process them. Two rules follow. (1) Whoever stops receiving before the socket is empty
comes back by itself (`_schedule`) and not by the descriptor. (2) Whoever sends on a socket that also
receives looks at what it may have received.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Final

import zmq

from darts_async.errors import LinkBroken, LinkClosed
from darts_async.transport.codec import Frame
from darts_async.transport.endpoint import attach
from darts_async.transport.lane import Lane

_BATCH: Final = 256
"""Messages moved per turn of the event loop: enough to spread the 5 us of the final "try again" thin."""
_ZERO_COPY_BYTES: Final = 1 << 16
"""Frames from this size on are handed to libzmq by reference. Measured: by copy 2.0 us for 64 KiB and 660 us for 1 MiB,
by reference 2.8 us for either."""
_BLOCKED_LOOK_S: Final = 0.02
"""Only while a hub's send waits for a full peer, see `try_send`."""

_DONTWAIT: Final = int(zmq.DONTWAIT)
_MORE_FOLLOWS: Final = int(zmq.DONTWAIT | zmq.SNDMORE)
_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)
_EVENTS: Final = int(zmq.EVENTS)

_monitor_numbers = itertools.count()


class LinkSocket:
    """A PUSH, PULL, DEALER or ROUTER socket. Made within a running event loop, used by that loop alone."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kind: int,
        endpoint: str,
        *,
        bind: bool,
        hwm: int,
        max_bytes: int,
        name: str = "",
    ) -> None:
        """Raises `LinkBroken` when the endpoint cannot be used, `ValueError` for a high-water mark below 1."""
        if hwm < 1:
            raise ValueError(f"a link's high-water mark is at least 1, got {hwm}")
        self._loop = asyncio.get_running_loop()
        self._receives = kind != zmq.PUSH
        self._sends = kind != zmq.PULL
        self._is_hub = kind == zmq.ROUTER
        # A receiver's bound is shared by libzmq's queue (per peer) and the inbox, whose length is the link's gauge.
        queued = (hwm + 1) // 2
        self._inbox_limit = max(hwm - queued, 1)
        self.closed = False
        self.inbox: deque[list[zmq.Frame]] = deque()
        self.readers = Lane()
        self.writers: defaultdict[bytes, Lane] = defaultdict(Lane)
        """Tasks that wait for room, by the peer's id (one lane with the empty id unless this is a hub)."""
        self._stalled = False
        self._scheduled = False
        self._look: asyncio.TimerHandle | None = None
        self._context = context
        self._socket = context.socket(kind)
        self.endpoint = attach(
            self._socket, endpoint, bind=bind, send_hwm=hwm, receive_hwm=queued, max_bytes=max_bytes, name=name
        )
        # pyzmq's own methods, without the Python layers above them: 0.2 us a frame instead of 0.5.
        raw: Any = super(zmq.Socket, self._socket)
        self._send = raw.send
        self._receive = raw.recv
        self._get = raw.get
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._service)
        self._schedule()

    def take(self) -> list[zmq.Frame] | None:
        """Return the next message's frames, or None if none is here. Raises `LinkClosed`."""
        if self.closed:
            raise LinkClosed(f"this side closed the link at {self.endpoint}")
        if not self.inbox:
            return None
        frames = self.inbox.popleft()
        if self._stalled and len(self.inbox) <= self._inbox_limit // 2:
            self._stalled = False
            self._schedule()
        return frames

    def try_send(self, frames: Sequence[Frame]) -> bool | None:
        """Hand a whole message to libzmq; return None if there is no room. Raises `LinkClosed`, `LinkBroken`.

        After None, `_service` wakes the writers when room may have appeared. libzmq reports a hub's room for all peers
        together, so that the sign of one peer's room can get lost among the others': a hub also looks on a timer.
        """
        if self.closed:
            raise LinkClosed(f"this side closed the link at {self.endpoint}")
        while not self._hand_over(frames):
            if not self._receives:
                return None  # the refused send was the last call on the socket: its descriptor will fire
            events = self._get(_EVENTS)
            if events & _POLLIN:
                self._schedule()
            if self._is_hub:
                if self._look is None:
                    self._look = self._loop.call_later(_BLOCKED_LOOK_S, self._look_again)
                return None
            if not events & _POLLOUT:
                return None
        if self._receives:
            self._schedule()
        return True

    async def close(self, linger_s: float) -> None:
        """Close; return when what was sent has gone out, at most `linger_s` later. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._look is not None:
            self._look.cancel()
        self.inbox.clear()
        self.readers.wake_all()
        for lane in self.writers.values():
            lane.wake_all()
        if self._sends and linger_s > 0:
            await self._close_and_watch(linger_s)
        else:
            self._socket.close(0)

    def _hand_over(self, frames: Sequence[Frame]) -> bool:
        send = self._send
        given = 0
        try:
            for frame in frames[:-1]:
                send(frame, _MORE_FOLLOWS, len(frame) < _ZERO_COPY_BYTES)
                given += 1
            frame = frames[-1]
            send(frame, _DONTWAIT, len(frame) < _ZERO_COPY_BYTES)
        except zmq.Again:
            if given and given < len(frames) - 1:
                # The peer died between two frames. libzmq forgets those before and now discards up to the message's
                # end: give it the end, and send the whole message again later.
                for frame in frames[given + 1 : -1]:
                    send(frame, _MORE_FOLLOWS)
                send(frames[-1], _DONTWAIT)
            return False
        except zmq.ZMQError as error:
            cause = f"{frames[0]!r} is not connected" if error.errno == zmq.EHOSTUNREACH else str(error)
            raise LinkBroken(f"{self.endpoint}: {cause}") from error
        return True

    def _schedule(self) -> None:
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self._loop.call_soon(self._service)

    def _look_again(self) -> None:
        self._look = None
        self._service()

    def _service(self) -> None:
        self._scheduled = False
        if self.closed:
            return
        if self._receives and len(self.inbox) < self._inbox_limit:
            self._fill_inbox()
        else:
            self._get(_EVENTS)  # processes the commands, and with that quiets the descriptor
        for lane in self.writers.values():
            lane.wake()

    def _fill_inbox(self) -> None:
        inbox = self.inbox
        receive = self._receive
        try:
            for _ in range(min(_BATCH, self._inbox_limit - len(inbox))):
                frame = receive(_DONTWAIT, False)
                frames = [frame]
                while frame.more:
                    frame = receive(_DONTWAIT, False)
                    frames.append(frame)
                inbox.append(frames)
        except zmq.Again:
            pass
        else:
            if len(inbox) < self._inbox_limit:
                self._schedule()
            else:
                self._stalled = True
        if inbox:
            self.readers.wake()

    async def _close_and_watch(self, linger_s: float) -> None:
        """libzmq reports the end of a socket, its lingering included, on a monitor; wait for that."""
        done: asyncio.Future[None] = self._loop.create_future()
        monitor = self._context.socket(zmq.PAIR)
        monitor_fd = monitor.fileno()

        def look() -> None:
            with contextlib.suppress(zmq.Again):
                monitor.recv_multipart(zmq.DONTWAIT)
                if not done.done():
                    done.set_result(None)

        try:
            address = f"inproc://darts-link-closed-{next(_monitor_numbers)}"
            self._socket.monitor(address, zmq.EVENT_MONITOR_STOPPED)
            monitor.connect(address)
            self._socket.close(int(linger_s * 1000))
            self._loop.add_reader(monitor_fd, look)
            look()
            with contextlib.suppress(TimeoutError):
                # libzmq keeps to the linger time by itself; half a second more is for a machine that is very busy.
                async with asyncio.timeout(linger_s + 0.5):
                    await done
        finally:
            self._loop.remove_reader(monitor_fd)
            self._socket.close(0)
            monitor.close(0)
