"""The link on which generators from elsewhere join a live run, and fetch the weights that they cannot read as files.

The launcher binds it, over encrypted TCP alone, next to the run's other ports; who has the run's join key may ask.
Each request has one answer, in order. Invariants: every message is bounded; nothing that is sent names a path that the
other side would have to open, but the folder of the weights, which it opens only when it finds the run's mark there.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import zmq

from darts_async.errors import LinkBroken, ProtocolError
from darts_async.messages import LongText, Message, NonNegative, ShortText
from darts_async.runtime.run_keys import JOIN, RunKeys
from darts_async.transport.codec import Codec
from darts_async.transport.gate import Gate
from darts_async.transport.zmq_links import ZmqDealer, ZmqHub, zmq_dealer, zmq_hub

__all__ = [
    "MARK",
    "PART_BYTES",
    "AskJoin",
    "AskWeights",
    "FromLauncher",
    "JoinClient",
    "JoinHub",
    "JoinRefused",
    "Joined",
    "Leave",
    "Standing",
    "StillThere",
    "ToLauncher",
    "WeightsGone",
    "WeightsPart",
]

PART_BYTES: Final = 4 << 20
"""Of a weights file in one message: large enough that the round trip counts for nothing."""
MARK: Final = "join-mark"
"""File in the folder of the weights: who reads the right word in it sees the run's own file system."""
_CONFIG_CHARS: Final = 1 << 20
_REQUEST_BYTES: Final = 64 << 10
_ANSWER_BYTES: Final = PART_BYTES + 2 * _CONFIG_CHARS
_WAITING: Final = 16
_SEND_S: Final = 5.0


class AskJoin(Message, frozen=True, kw_only=True):
    """May a generator take part?"""

    schema_version: NonNegative
    software: ShortText
    """Version of the package."""
    host: ShortText
    pid: NonNegative
    rank: NonNegative | None = None
    """The rank that it had before; None: it is new."""


class Joined(Message, frozen=True, kw_only=True):
    """It may, as this."""

    rank: NonNegative
    incarnation: NonNegative
    config: Annotated[str, msgspec.Meta(max_length=_CONFIG_CHARS)]
    """The run's resolved config, in TOML."""
    weights_folder: LongText
    """Where versions are published, on the run's own host."""
    weights_mark: ShortText
    """What `MARK` says in that folder."""


class JoinRefused(Message, frozen=True, kw_only=True):
    """It may not."""

    reason: LongText


class StillThere(Message, frozen=True, kw_only=True):
    """Every few seconds, from whoever started the generator: does the run go on, and does it still count on this?"""

    rank: NonNegative
    incarnation: NonNegative


class Leave(Message, frozen=True, kw_only=True):
    """This start of a generator is over."""

    rank: NonNegative
    incarnation: NonNegative
    reason: LongText


class Standing(Message, frozen=True, kw_only=True):
    """How the run stands, and whether the start that was asked about has a part in it."""

    known: bool
    state: Literal["starting", "running", "ending"]


class AskWeights(Message, frozen=True, kw_only=True):
    """One part of a published version."""

    version: NonNegative
    offset: NonNegative


class WeightsPart(Message, frozen=True, kw_only=True):
    """From `offset` on, as much as one message carries, or up to the end."""

    version: NonNegative
    offset: NonNegative
    total: NonNegative
    """Bytes of the whole file."""
    stamp: ShortText
    """Of this very file: parts with another one are of a file that has taken its place."""
    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=PART_BYTES)]

    def __post_init__(self) -> None:
        if self.offset + len(self.data) > self.total:
            raise ValueError(f"{len(self.data)} bytes from {self.offset} on do not fit into {self.total}")


class WeightsGone(Message, frozen=True, kw_only=True):
    """The version is not there (any more), or has no such part."""

    version: NonNegative


ToLauncher: TypeAlias = AskJoin | StillThere | Leave | AskWeights
FromLauncher: TypeAlias = Joined | JoinRefused | Standing | WeightsPart | WeightsGone


class JoinHub:
    """The launcher's end. Make it inside the running event loop."""

    def __init__(self, endpoint: str, keys: RunKeys) -> None:
        """Raises `LinkBroken` when the endpoint cannot be bound, `RunFailed` when the keys cannot be read."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = Gate(self._context, {JOIN: keys.joiners()})
        try:
            self.link: ZmqHub[FromLauncher, ToLauncher] = zmq_hub(
                self._context,
                endpoint,
                send=Codec(FromLauncher, max_bytes=_ANSWER_BYTES),
                receive=Codec(ToLauncher, max_bytes=_REQUEST_BYTES),
                hwm=_WAITING,
                keys=keys.serve_joiners(),
            )
        except BaseException:
            self._gate.close()
            self._context.term()
            raise

    async def answer(self, peer: str, answer: FromLauncher) -> None:
        """Answer somebody; whoever has gone or does not read gets none."""
        with contextlib.suppress(LinkBroken, TimeoutError):
            async with asyncio.timeout(_SEND_S):
                await self.link.send(peer, answer)

    async def close(self) -> None:
        """Answer nobody any more."""
        await self.link.close(0.2)
        self._gate.close()
        await asyncio.to_thread(self._context.term)


class JoinClient:
    """The other end. One request at a time. Make it inside the running event loop."""

    def __init__(self, endpoint: str, name: str, keys: Path) -> None:
        """`keys`: folder with the run's public key and the join key. Raises `RunFailed` when they cannot be read."""
        self._endpoint = endpoint
        pair = RunKeys(keys).connect("generator")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._link: ZmqDealer[ToLauncher, FromLauncher] = zmq_dealer(
            self._context,
            endpoint,
            name,
            send=Codec(ToLauncher, max_bytes=_REQUEST_BYTES),
            receive=Codec(FromLauncher, max_bytes=_ANSWER_BYTES),
            hwm=_WAITING,
            keys=pair,
        )
        self._asking = asyncio.Lock()
        self._owed = 0
        """Answers to requests that were given up: they come first."""

    async def ask(self, request: ToLauncher, timeout_s: float) -> FromLauncher:
        """Ask the launcher. Raises `LinkBroken` when it does not answer in time, `ProtocolError` for nonsense."""
        async with self._asking:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._link.send(request)
                    self._owed += 1
                    while True:
                        answer = await self._link.recv()
                        self._owed -= 1
                        if not self._owed:
                            return answer
            except TimeoutError:
                raise LinkBroken(f"{self._endpoint}: the run does not answer within {timeout_s:g} s") from None

    async def fetch(self, version: int, offset: int, timeout_s: float) -> WeightsPart | None:
        """Ask for a part of a version; None: it is not there. Raises as `ask` does."""
        answer = await self.ask(AskWeights(version=version, offset=offset), timeout_s)
        if isinstance(answer, WeightsGone):
            return None
        if not isinstance(answer, WeightsPart) or (answer.version, answer.offset) != (version, offset):
            raise ProtocolError(f"{self._endpoint}: {type(answer).__name__} is no answer to a question for weights")
        return answer

    async def close(self) -> None:
        """Close the link; what was sent last still goes out."""
        await self._link.close(0.5)
        await asyncio.to_thread(self._context.term)
