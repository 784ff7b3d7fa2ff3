"""Keys of encrypted links: CURVE, as libzmq speaks it. The binder has the server's pair, who connects one of its own.

A connection comes about only when the connecting side knows the binder's public key and the binder admits that side's
public key (`transport.gate`). Invariant: a secret key shows in no `repr`, so in no log and in no traceback.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import zmq

__all__ = ["KEY_CHARS", "ConnectKeys", "KeyPair", "ServeKeys", "curve_is_available", "is_key", "new_pair"]

KEY_CHARS: Final = 40
"""Length of a key in Z85, libzmq's printable form of 32 bytes."""
_Z85: Final = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret one, in Z85."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServeKeys:
    """What the binding end of a link needs. `domain` names the link to the gate, which knows who may connect to it."""

    pair: KeyPair
    domain: str

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options, before the socket is bound."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.pair.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, self.domain.encode())
        # Without it a socket whose gate is missing lets everybody in who knows the server's public key.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


@dataclass(frozen=True, slots=True)
class ConnectKeys:
    """What the connecting end of a link needs: its own pair, and the binder's public key."""

    pair: KeyPair
    server: bytes

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options, before the socket is connected."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.pair.secret)


def curve_is_available() -> bool:
    """Whether the installed libzmq was built with CURVE."""
    return bool(zmq.has("curve"))


def new_pair() -> KeyPair:
    """Make a pair of keys from the system's randomness."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public, secret)


def is_key(text: bytes) -> bool:
    """Whether this can be a key in Z85."""
    return len(text) == KEY_CHARS and _Z85.issuperset(text)
