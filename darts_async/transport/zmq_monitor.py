"""What libzmq reports about a socket: which connections are up or were refused, and that a closed socket has ended."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable
from typing import Any, Final

import zmq

_EVENT: Final = struct.Struct("=Hi")
_UP: Final = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED
_DOWN: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_REFUSED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_ENDED: Final = zmq.EVENT_MONITOR_STOPPED
_numbers = itertools.count()


class SocketMonitor:
    """Follows one socket until it has ended. Close it last."""

    def __init__(self, context: zmq.Context[Any], socket: zmq.Socket[bytes], on_loss: Callable[[], None]) -> None:
        """Calls `on_loss` whenever the last connection is lost."""
        self._loop = asyncio.get_running_loop()
        self._connections: set[int] = set()
        self._on_loss = on_loss
        self.lost_all = False
        """There were connections, and there are none now."""
        self.refused = 0
        """Connections that came to nothing: no ZeroMQ peer, or one without the right keys."""
        self._ended = asyncio.Event()
        address = f"inproc://darts-link-monitor-{next(_numbers)}"
        socket.monitor(address, int(_UP | _DOWN | _REFUSED | _ENDED))
        self._events = context.socket(zmq.PAIR)
        self._events.connect(address)
        self._fd = self._events.fileno()
        self._loop.add_reader(self._fd, self._read)
        self._read()

    async def until_ended(self) -> None:
        """Wait until the socket is gone: closed by its owner, and done with lingering."""
        await self._ended.wait()

    def close(self) -> None:
        """Stop following."""
        self._loop.remove_reader(self._fd)
        self._events.close(0)

    def _read(self) -> None:
        try:
            while True:
                event, value = _EVENT.unpack(self._events.recv_multipart(zmq.DONTWAIT)[0])
                if event & _UP:
                    self._connections.add(value)
                    self.lost_all = False
                elif event & _DOWN and value in self._connections:
                    self._connections.remove(value)
                    if not self._connections:
                        self.lost_all = True
                        self._on_loss()
                elif event & _REFUSED:
                    self.refused += 1
                elif event & _ENDED:
                    self._ended.set()
        except zmq.Again:
            return
