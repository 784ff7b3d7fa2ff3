"""Spoiled messages on their way to listening sockets, from plain sockets that know nothing of the contract."""

from __future__ import annotations

import random
from typing import Any

import zmq

from darts_async.config import Config
from darts_async.errors import ProtocolError
from darts_async.runtime.link_limits import link_limits
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import LINKS, LinkName, roles_that_connect
from darts_async.transport.codec import Codec
from darts_async.transport.zmq_socket import MAX_FRAMES
from fuzzing.decoding import Spoiler

__all__ = ["Barrage"]

_COURTESIES = (b"\xc1bye?", b"\xc1bye!")


class Barrage:
    """Fires from a context of its own. Not for an event loop: sends block when the other side is slow."""

    def __init__(self, endpoints: dict[str, str], keys: RunKeys | None, config: Config, rng: random.Random) -> None:
        self._endpoints = endpoints
        self._keys = keys
        self._limits = link_limits(config)
        self._rng = rng
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def fire(self, count: int) -> dict[LinkName, int]:
        """Send `count` messages to each link that it will refuse; return how many. Raises `zmq.Again` on a hang."""
        return {name: self._fire_at(name, count) for name in LINKS}

    def knock(self) -> None:
        """Connect to every link without a key, with a wrong one, and with a frame that is too large."""
        for name in LINKS:
            self._connect(name, keyed=False).send(b"x", zmq.DONTWAIT)
            self._connect(name).send(bytes(self._limits[name][0] + 1), zmq.DONTWAIT)

    def close(self) -> None:
        """Close everything."""
        for socket in self._sockets:
            socket.close(0)
        self._context.term()

    def _fire_at(self, name: LinkName, count: int) -> int:
        codec: Codec[Any] = Codec(LINKS[name].forward, max_bytes=self._limits[name][0])
        spoiler = Spoiler(codec, self._rng)
        socket = self._connect(name)
        sent = 0
        while sent < count:
            frames = spoiler.spoil()
            if not frames or frames[-1] in _COURTESIES or len(frames) >= 2 * MAX_FRAMES:
                continue
            try:
                codec.decode(frames)
            except ProtocolError:
                if max(map(len, frames)) <= self._limits[name][0]:
                    socket.send_multipart(frames)
                    sent += 1
        return sent

    def _connect(self, name: LinkName, *, keyed: bool = True) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        self._sockets.append(socket)
        socket.sndtimeo = 30_000
        socket.linger = 0
        if keyed and self._keys is not None:
            self._keys.connect(roles_that_connect(name)[0]).apply(socket)
        socket.connect(self._endpoints[name])
        return socket
