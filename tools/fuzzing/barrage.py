"""Spoiled messages on their way to listening sockets, from plain sockets that know nothing of the contract."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import zmq

from darts_async.config import Config
from darts_async.errors import ProtocolError
from darts_async.messages import Message
from darts_async.runtime.link_limits import link_limits
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import LINKS, LinkName, dealers, roles_that_connect
from darts_async.transport.codec import Codec
from darts_async.transport.curve import ConnectKeys, new_pair
from darts_async.transport.zmq_socket import MAX_FRAMES
from fuzzing.decoding import Spoiler

__all__ = ["Barrage"]

_COURTESIES = (b"\xc1bye?", b"\xc1bye!")
_PATIENCE_MS = 60_000


class Barrage:
    """Fires from a context of its own. Not for an event loop: sends block when the other side is slow."""

    def __init__(
        self,
        endpoints: dict[str, str],
        keys: RunKeys | None,
        config: Config,
        rng: random.Random,
        *,
        as_members: bool = False,
    ) -> None:
        """`as_members`: under the names of roles, where none of these is there; a hub reads no message of others."""
        self._endpoints = endpoints
        self._keys = keys
        self._config = config
        self._limits = link_limits(config)
        self._rng = rng
        self._as_members = as_members
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def fire(self, count: int) -> dict[LinkName, int]:
        """Send `count` messages to each link that it will refuse; return how many. Raises `TimeoutError` on a hang."""
        return {name: self._fire_at(name, count) for name in LINKS}

    def replay(self, messages: Mapping[LinkName, Sequence[Message]]) -> int:
        """Send messages that their links take; return how many. Raises `TimeoutError` on a hang."""
        for name, sendings in messages.items():
            codec: Codec[Any] = Codec(LINKS[name].forward, max_bytes=self._limits[name][0])
            socket = self._connect(name)
            for message in sendings:
                _send(socket, name, codec.encode(message))
        return sum(map(len, messages.values()))

    def knock(self) -> None:
        """Connect to every link with a frame that is too large, and where there are keys without any and with a wrong
        one."""
        for name in LINKS:
            self._connect(name).send(bytes(self._limits[name][0] + 1), zmq.DONTWAIT)
            if self._keys is None:
                continue
            self._connect(name, keys=None).send(b"x", zmq.DONTWAIT)
            server = self._keys.connect(roles_that_connect(name)[0]).server
            self._connect(name, keys=ConnectKeys(new_pair(), server)).send(b"x", zmq.DONTWAIT)

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
                    _send(socket, name, frames)
                    sent += 1
        return sent

    def _connect(self, name: LinkName, *, keys: ConnectKeys | str | None = "own") -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        self._sockets.append(socket)
        socket.sndtimeo = _PATIENCE_MS
        socket.linger = 0
        if self._as_members and LINKS[name].kind == "hub":
            socket.routing_id = min(dealers(name, self._config.generator.replicas)).encode()
        if isinstance(keys, str):
            keys = None if self._keys is None else self._keys.connect(roles_that_connect(name)[0])
        if keys is not None:
            keys.apply(socket)
        socket.connect(self._endpoints[name])
        return socket


def _send(socket: zmq.Socket[bytes], name: LinkName, frames: Sequence[Any]) -> None:
    try:
        socket.send_multipart(frames)
    except zmq.Again:
        raise TimeoutError(f"the {name} link took nothing for {_PATIENCE_MS / 1e3:.0f} s") from None
