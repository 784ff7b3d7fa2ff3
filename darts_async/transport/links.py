"""The contract every link keeps, over ZeroMQ and in memory alike.

- Order: messages of one sender arrive in the order they were sent.
- Loss: none while both ends live. A message is never dropped because a queue is full: `send` waits instead.
- Cancellation: `recv` and `send` may be cancelled (also by a timeout) at any time; no message is lost or sent in
  part by that; a `send` that was cancelled has not sent. (pyzmq's own `wait_for(recv())` can lose one, pyzmq#1925:
  links do not use it.)
- Errors: `LinkClosed` when this side has closed the link, `ProtocolError` for a message of one's own that cannot be
  sent, `LinkBroken` for a failure from outside. A sender that is done says so with a message of its own
  (`messages.StreamEnd`): ZeroMQ has no end of stream.
- Garbage: what arrives and is not a message of the link, whatever the bytes, is dropped, counted (`LinkStats.dropped`)
  and named in the log now and then. Nobody can end a role by what they send.
- Several tasks may use one end; they are served in the order they came. Messages are frozen once sent: their arrays may
  be on their way without having been copied.
- `close()` is idempotent and wakes whoever waits. Senders and dealers return from it once the other side has received
  everything they sent, after `linger_s` at the latest; what has not been received by then may be lost. A hub's `close`
  waits only until its messages have left.
"""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

import msgspec

S_contra = TypeVar("S_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class LinkStats(msgspec.Struct):
    """Counters of one link end, for gauges: messages, frames' bytes, and what waits here now."""

    sent: int = 0
    received: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    depth: int = 0
    """Messages received from the peer and not yet taken by `recv` (or, at a sender, not yet handed over)."""
    dropped: int = 0
    """Messages that arrived and were refused; not among the received ones."""
    refused_peers: int = 0
    """Connections that were refused (strangers, wrong keys)."""


@runtime_checkable
class Sender(Protocol[S_contra]):
    """The sending end of a stream (many senders, one receiver); the high-water mark is the back-pressure."""

    @property
    def stats(self) -> LinkStats:
        """The counters now."""

    async def send(self, message: S_contra) -> None:
        """Hand a message over; wait while there is no room. If cancelled, the message was not sent."""

    async def close(self, linger_s: float = 1.0) -> None:
        """Close this end; return when what was sent has arrived, at most `linger_s` seconds later."""


@runtime_checkable
class Receiver(Protocol[R_co]):
    """The receiving end of a stream."""

    @property
    def stats(self) -> LinkStats:
        """The counters now."""

    async def recv(self) -> R_co:
        """Wait for the next message."""

    async def close(self, linger_s: float = 1.0) -> None:
        """Close this end; return when what was sent has arrived, at most `linger_s` seconds later."""


@runtime_checkable
class Dealer(Protocol[S_contra, R_co]):
    """One of many clients of a `Hub`: it has a name, and messages flow both ways."""

    @property
    def stats(self) -> LinkStats:
        """The counters now."""

    async def send(self, message: S_contra) -> None:
        """Hand a message over; wait while there is no room. If cancelled, the message was not sent."""

    async def recv(self) -> R_co:
        """Wait for the next message."""

    async def close(self, linger_s: float = 1.0) -> None:
        """Close this end; return when what was sent has arrived, at most `linger_s` seconds later."""


@runtime_checkable
class Hub(Protocol[S_contra, R_co]):
    """The addressed side (ROUTER) of a link with many dealers; peers are known by their dealers' names.

    `send` to a peer that has never connected or has gone raises `LinkBroken` (never a silent drop).
    """

    @property
    def stats(self) -> LinkStats:
        """The counters now."""

    async def send(self, peer: str, message: S_contra) -> None:
        """Hand a message for one dealer over; wait while there is no room for that one."""

    async def recv(self) -> tuple[str, R_co]:
        """Wait for the next message of any dealer; return the dealer's name with it."""

    async def close(self, linger_s: float = 1.0) -> None:
        """Close this end; return when what was sent has arrived, at most `linger_s` seconds later."""
