"""The link on which a live run answers its user: what is asked and answered, and where the run is found.

`<run>/control.json` says where, while the run lasts. The socket lies in the launcher's private folder, and only a file
that belongs to this user and is readable by nobody else is believed, so nobody else can ask or be asked. Requests are
small, decoded strictly, and answered one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import zmq

from darts_async.durable import partial_of
from darts_async.errors import LinkBroken
from darts_async.messages import KnobChanges, LongText, Message, NonNegative, ShortText
from darts_async.owned_files import read_private, write_private
from darts_async.transport.codec import Codec
from darts_async.transport.zmq_links import ZmqDealer, ZmqHub, zmq_dealer, zmq_hub

__all__ = [
    "Answer",
    "AskSet",
    "AskStatus",
    "EvalLine",
    "OutsideHub",
    "OutsideLink",
    "Place",
    "QueueLine",
    "Request",
    "RoleLine",
    "SetAnswer",
    "StatusAnswer",
    "ask",
    "find_place",
]

_REQUEST_BYTES: Final = 1 << 14
_ANSWER_BYTES: Final = 1 << 22
_WAITING: Final = 16
_SEND_S: Final = 2.0
_LINGER_S: Final = 0.5
Texts = Annotated[tuple[LongText, ...], msgspec.Meta(max_length=4096)]
Figures = Annotated[dict[ShortText, float], msgspec.Meta(max_length=16)]
"""By metric name."""


class AskStatus(Message, frozen=True, kw_only=True):
    """How is the run?"""


class AskSet(Message, frozen=True, kw_only=True):
    """Change settings."""

    assignments: Annotated[dict[ShortText, ShortText], msgspec.Meta(min_length=1, max_length=32)]
    """Key to value, both as typed."""


class RoleLine(msgspec.Struct, frozen=True, kw_only=True):
    """One role."""

    name: ShortText
    state: ShortText
    state_s: float
    """For how long it has been in it."""
    pid: NonNegative
    restarts: NonNegative
    idle_ratio: float | None = None
    heard_s: float | None = None
    """Since its last sign of life; None: there was none yet."""
    gauges: Figures = msgspec.field(default_factory=dict)
    """Those that a picture of the run shows."""


class QueueLine(msgspec.Struct, frozen=True, kw_only=True):
    """One queue."""

    name: ShortText
    depth: float
    bound: NonNegative
    busy_s: float
    """For how long it has not been empty."""


class EvalLine(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of the held-out set."""

    label: Literal["before", "during", "after"]
    version: NonNegative
    reward: float
    response_length: float


class StatusAnswer(Message, frozen=True, kw_only=True):
    """How the run is."""

    run: ShortText
    state: Literal["starting", "running", "ending"]
    wall_s: float
    step: NonNegative
    """Steps that are done."""
    steps: NonNegative
    roles: Annotated[tuple[RoleLine, ...], msgspec.Meta(max_length=2048)]
    queues: Annotated[tuple[QueueLine, ...], msgspec.Meta(max_length=64)]
    waits: Texts
    """Who waits for whom, a sentence each."""
    verdict: LongText
    still_s: float
    """For how long nothing has progressed."""
    stalls: NonNegative
    """How often that was for `launch.stall_s`."""
    stalls_log: LongText
    """Where who waited for whom is written then."""
    warnings: Texts
    """The last ones."""
    changed: KnobChanges
    """Settings that differ from the start: the value then and now."""
    about: ShortText = ""
    """What kind of run it is, in a few words."""
    earlier_s: float = 0.0
    """How long earlier starts of the run lasted."""
    max_wall_s: float | None = None
    max_trained_tokens: NonNegative | None = None
    tokens: Figures = msgspec.field(default_factory=dict)
    """What became of all tokens so far, over all starts of the run, by ledger state."""
    evals: Annotated[tuple[EvalLine, ...], msgspec.Meta(max_length=8)] = ()
    """The first and the last ones."""


class SetAnswer(Message, frozen=True, kw_only=True):
    """What became of a wish to change settings."""

    changed: KnobChanges = msgspec.field(default_factory=dict)
    refused: LongText = ""
    """Why nothing was changed."""
    unconfirmed: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=2048)] = ()
    """Roles that have not answered in time, or are being restarted: they are told when they are back."""


Request: TypeAlias = AskStatus | AskSet
Answer: TypeAlias = StatusAnswer | SetAnswer


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a live run is asked."""

    endpoint: Annotated[str, msgspec.Meta(pattern=r"^ipc://", max_length=120)]
    pid: NonNegative
    """Of the launcher."""


class OutsideHub:
    """The run's end: bound in a private folder, told in `control.json`."""

    def __init__(self, folder: Path, control_file: Path) -> None:
        """Raises `LinkBroken` when the path is too long for a socket, `OSError` when the file cannot be written."""
        self._file = control_file
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        place = Place(endpoint=f"ipc://{folder / 'outside'}", pid=os.getpid())
        try:
            self.link: ZmqHub[Answer, Request] = zmq_hub(
                self._context,
                place.endpoint,
                send=Codec(Answer, max_bytes=_ANSWER_BYTES),
                receive=Codec(Request, max_bytes=_REQUEST_BYTES),
                hwm=_WAITING,
            )
        except BaseException:
            self._context.term()
            raise
        partial = partial_of(control_file)
        partial.unlink(missing_ok=True)
        write_private(partial, msgspec.json.encode(place))
        partial.replace(control_file)

    async def answer(self, peer: str, answer: Answer) -> None:
        """Answer somebody; whoever has gone or does not read gets none."""
        with contextlib.suppress(LinkBroken, TimeoutError):
            async with asyncio.timeout(_SEND_S):
                await self.link.send(peer, answer)

    async def close(self) -> None:
        """Take the file away, then the link."""
        self._file.unlink(missing_ok=True)
        await self.link.close(_LINGER_S)
        await asyncio.to_thread(self._context.term)


def find_place(control_file: Path) -> Place:
    """Read a `control.json`. Raises `OSError` (also when it is not this user's alone), `ValueError` if it is none."""
    return msgspec.json.decode(read_private(control_file), type=Place)


class OutsideLink:
    """The other end: whoever asks, as often as wanted. One question at a time."""

    def __init__(self, place: Place) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._link: ZmqDealer[Request, Answer] = zmq_dealer(
                self._context,
                place.endpoint,
                f"outside-{os.getpid()}-{secrets.token_hex(4)}",
                send=Codec(Request, max_bytes=_REQUEST_BYTES),
                receive=Codec(Answer, max_bytes=_ANSWER_BYTES),
                hwm=_WAITING,
            )
        except BaseException:
            self._context.term()
            raise

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """Ask. Raises `LinkBroken`, `TimeoutError`: then close it, for a late answer would pass for the next one's."""
        async with asyncio.timeout(timeout_s):
            await self._link.send(request)
            return await self._link.recv()

    async def close(self) -> None:
        """Wait for nothing."""
        await self._link.close(0.0)
        await asyncio.to_thread(self._context.term)


async def ask(place: Place, request: Request, timeout_s: float) -> Answer:
    """Ask a live run once. Raises `TimeoutError`, `LinkBroken`."""
    link = OutsideLink(place)
    try:
        return await link.ask(request, timeout_s)
    finally:
        await link.close()
