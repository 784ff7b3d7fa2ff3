"""One ZeroMQ socket on one event loop: whole messages in and out, never blocking, with a bounded inbox.

The socket's file descriptor wakes `_service`, which moves what has arrived into the inbox and lets blocked senders try
again. Everything that touches the socket is synchronous and takes or gives whole messages, so a cancelled task can
neither lose a message nor leave half of one.

The descriptor is edge-triggered in libzmq's own sense: it becomes readable when the socket has commands to process, and
*any* call on the socket may process them. Two rules follow. (1) Whoever stops receiving before the socket is empty
comes back by itself (`_schedule`) and not by the descriptor. (2) Whoever sends on a socket that also
receives looks at what it may have received.

Streams are DEALER -> ROUTER here, like the hub's links, and not PUSH -> PULL: libzmq loses what the receiver has not
yet read when a peer closes an ipc connection while the receiver's queue is full, whatever the time to linger
(libzmq#4660; measured: the last 100 to 1,500 small messages of 5,000). So a side that has sent something says good-bye
in `close` and waits for the answer, which the receiver gives once it holds everything before it; PUSH and PULL have no
way back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

import zmq

from darts_async.errors import LinkBroken, LinkClosed
from darts_async.transport.codec import Frame
from darts_async.transport.endpoint import Keys, attach
from darts_async.transport.lane import Lane
from darts_async.transport.refusals import Refusals
from darts_async.transport.zmq_monitor import SocketMonitor

_BATCH: Final = 256
"""Messages moved per turn of the event loop: enough to spread the 5 us of the final "try again" thin."""
_ZERO_COPY_BYTES: Final = 1 << 16
"""Frames from this size on are handed to libzmq by reference. Measured: by copy 2.0 us for 64 KiB and 660 us for 1 MiB,
by reference 2.8 us for either."""
MAX_FRAMES: Final = 32
"""Of one message, the sender's id included; the largest real one has eight."""
INBOX_BYTES: Final = 64 << 20
"""What an inbox may hold before it stops receiving, unless one message is larger: the bound that `hwm` is in bytes.
libzmq's own queues come on top, of at most `hwm` messages of `max_bytes` for each peer."""
_BLOCKED_LOOK_S: Final = 0.02
"""Only while a hub's send waits for a full peer, see `try_send`."""
_GOOD_BYE: Final = b"\xc1bye?"
_ANSWER: Final = b"\xc1bye!"
"""No MessagePack begins with 0xc1."""

_DONTWAIT: Final = int(zmq.DONTWAIT)
_MORE_FOLLOWS: Final = int(zmq.DONTWAIT | zmq.SNDMORE)
_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)
_EVENTS: Final = int(zmq.EVENTS)


class LinkKind(Enum):
    """Which end of which link a socket is."""

    SENDER = "sender"
    RECEIVER = "receiver"
    DEALER = "dealer"
    HUB = "hub"


class LinkSocket:
    """A DEALER (sender, dealer) or ROUTER (receiver, hub), made within a running event loop and used by it alone."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kind: LinkKind,
        endpoint: str,
        *,
        bind: bool,
        hwm: int,
        max_bytes: int,
        name: str = "",
        keys: Keys = None,
    ) -> None:
        """Raises `LinkBroken` when the endpoint cannot be used, `ValueError` for a high-water mark below 1."""
        if hwm < 1:
            raise ValueError(f"a link's high-water mark is at least 1, got {hwm}")
        self._loop = asyncio.get_running_loop()
        self._receives = kind is not LinkKind.SENDER
        self._is_hub = kind is LinkKind.HUB
        self._is_router = kind in (LinkKind.RECEIVER, LinkKind.HUB)
        # A receiver's bound is shared by libzmq's queue (per peer) and the inbox, whose length is the link's gauge.
        queued = (hwm + 1) // 2
        self._inbox_limit = max(hwm - queued, 1)
        self._max_bytes = max_bytes
        # Sizes are added up (0.3 us a message) only where the number of messages alone would allow too much.
        self._inbox_bytes_limit = max(INBOX_BYTES, max_bytes) if self._inbox_limit * max_bytes > INBOX_BYTES else 0
        self._inbox_bytes = 0
        self.closed = False
        self.inbox: deque[list[zmq.Frame]] = deque()
        self.readers = Lane()
        self.writers: defaultdict[bytes, Lane] = defaultdict(Lane)
        """Tasks that wait for room, by the peer's id (one lane with the empty id unless this is a hub)."""
        self._stalled = False
        self._scheduled = False
        self._look: asyncio.TimerHandle | None = None
        self._has_sent = False
        self._parting = False
        self._good_bye_said = False
        self._parted = asyncio.Event()
        """The peer has answered the good-bye, or is gone."""
        self._socket = context.socket(zmq.ROUTER if self._is_router else zmq.DEALER)
        self._monitor = SocketMonitor(context, self._socket, self._parted.set)
        try:
            self.endpoint = attach(
                self._socket,
                endpoint,
                bind=bind,
                send_hwm=hwm,
                receive_hwm=queued,
                max_bytes=max_bytes,
                name=name,
                keys=keys,
            )
        except BaseException:
            self._monitor.close()
            raise
        self.refusals = Refusals(self.endpoint)
        # pyzmq's own methods, without the Python layers above them: 0.2 us a frame instead of 0.5.
        raw: Any = super(zmq.Socket, self._socket)
        self._send = raw.send
        self._receive = raw.recv
        self._get = raw.get
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._service)
        self._schedule()

    def take(self) -> list[zmq.Frame] | None:
        """Return the next message's frames (a hub's begin with the peer's id), None if none is here. `LinkClosed`."""
        if self.closed:
            raise LinkClosed(f"this side closed the link at {self.endpoint}")
        if not self.inbox:
            return None
        frames = self.inbox.popleft()
        if self._inbox_bytes_limit:
            self._inbox_bytes -= sum(map(len, frames))
        if (
            self._stalled
            and len(self.inbox) <= self._inbox_limit // 2
            and self._inbox_bytes <= self._inbox_bytes_limit // 2
        ):
            self._stalled = False
            self._schedule()
        return frames

    @property
    def waiting_bytes(self) -> int:
        """What the inbox holds, all frames together."""
        return sum(sum(map(len, frames)) for frames in self.inbox)

    @property
    def refused_peers(self) -> int:
        """Connections that were refused."""
        return self._monitor.refused

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
        self._has_sent = True
        if self._receives:
            self._schedule()
        return True

    async def close(self, linger_s: float) -> None:
        """Close; return when what was sent has arrived, at most `linger_s` later. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._forget_inbox()
        self.readers.wake_all()
        for lane in self.writers.values():
            lane.wake_all()
        if self._look is not None:
            self._look.cancel()
        end = self._loop.time() + linger_s
        try:
            # A hub stays behind its dealers in every topology here: it has nobody to wait for.
            if self._has_sent and not self._is_hub and not self._monitor.lost_all:
                await self._part(end)
            self._loop.remove_reader(self._fd)
            left_s = max(end - self._loop.time(), 0.0)
            self._socket.close(int(left_s * 1000))
            with contextlib.suppress(TimeoutError):
                # libzmq keeps to its time by itself; half a second more is for a machine that is very busy.
                async with asyncio.timeout(left_s + 0.5):
                    await self._monitor.until_ended()
        finally:
            if not self._socket.closed:
                self._loop.remove_reader(self._fd)
                self._socket.close(0)
            self._monitor.close()

    async def _part(self, end: float) -> None:
        """Say good-bye; wait for the answer, the loss of the peer, or the loop's time `end`."""
        self._parting = True
        self._parted.clear()
        self._good_bye_said = False
        self._service()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self._parted.wait()
        self._parting = False

    def _go_on_parting(self) -> None:
        self._fill_inbox()  # for the answer; whatever else comes is for nobody
        self._forget_inbox()
        if not self._good_bye_said:
            try:
                self._good_bye_said = self._hand_over([_GOOD_BYE])
            except LinkBroken:
                self._parted.set()
            if self._good_bye_said:
                self._schedule()

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
        if not self._scheduled and (self._parting or not self.closed):
            self._scheduled = True
            self._loop.call_soon(self._service)

    def _look_again(self) -> None:
        self._look = None
        self._service()

    def _service(self) -> None:
        self._scheduled = False
        if self._parting:
            self._go_on_parting()
            return
        if self.closed:
            return
        if self._receives and self._has_room:
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
                    if len(frames) <= MAX_FRAMES:
                        frames.append(frame)
                if len(frame) == len(_GOOD_BYE) and self._is_courtesy(frames):
                    continue
                if len(frames) > MAX_FRAMES:
                    self._refuse(frames, f"more than {MAX_FRAMES} frames")
                    continue
                if self._inbox_bytes_limit and not self._fits(frames):
                    continue
                inbox.append(frames)
                if not self._has_room:
                    break
        except zmq.Again:
            pass
        else:
            if self._has_room:
                self._schedule()
            else:
                self._stalled = True
        if inbox:
            self.readers.wake()

    @property
    def _has_room(self) -> bool:
        return len(self.inbox) < self._inbox_limit and (
            not self._inbox_bytes_limit or self._inbox_bytes < self._inbox_bytes_limit
        )

    def _fits(self, frames: list[zmq.Frame]) -> bool:
        """Count a message's bytes; refuse it if its frames together are above the bound that libzmq has for each."""
        size = sum(map(len, frames))
        if size - (len(frames[0]) if self._is_router else 0) > self._max_bytes:
            self._refuse(frames, f"{size} bytes, above the bound of {self._max_bytes} bytes")
            return False
        self._inbox_bytes += size
        return True

    def _refuse(self, frames: list[zmq.Frame], why: str) -> None:
        self.refusals.refuse(frames[0].bytes if self._is_router else b"", why)

    def _forget_inbox(self) -> None:
        self.inbox.clear()
        self._inbox_bytes = 0

    def _is_courtesy(self, frames: list[zmq.Frame]) -> bool:
        """Deal with a good-bye or its answer; return False if the message is neither."""
        said = frames[-1].bytes
        if self._is_router and len(frames) == 2 and said == _GOOD_BYE:
            with contextlib.suppress(LinkBroken):
                self._hand_over([frames[0].bytes, _ANSWER])
            return True
        if not self._is_router and len(frames) == 1 and said == _ANSWER:
            self._parted.set()
            return True
        return False
