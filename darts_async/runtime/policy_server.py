"""The learner's side of the policy link: the latest version is state that every peer is told, not an event to catch.

Invariants: a peer that introduces itself learns the latest version, whenever it comes; no peer is told an older
version after a newer one; every peer is told of every version that is evaluated; a published file exists for as long
as some replica may still load it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.errors import LinkBroken, ProtocolError
from darts_async.messages import AllocatorHello, GeneratorHello, PolicyApplied, PolicyReply, PolicyScored, PolicyUpdate

if TYPE_CHECKING:
    from darts_async.engines.weight_store import WeightStore
    from darts_async.transport.links import Hub

_log = logging.getLogger(__name__)


class PolicyServer:
    """Serves version 0 (the model folder itself) until the first `publish`."""

    def __init__(
        self,
        link: Hub[PolicyUpdate, PolicyReply],
        store: WeightStore,
        schedule: EvalSchedule = EvalSchedule(),  # noqa: B008 - frozen
        on_scored: Callable[[PolicyScored], Awaitable[None]] | None = None,
    ) -> None:
        """`on_scored`: told of the held-out scores that the allocator sends."""
        self._link = link
        self._schedule = schedule
        self._on_scored = on_scored
        self._store = store
        self._peers: dict[str, int] = {}
        """The latest version that a peer was told of; -1: none."""
        self._starts: dict[int, int] = {}
        """Which start of each replica was heard of last."""
        self._announcing = asyncio.Lock()
        self.telling = ""
        """The peer that a message is on its way to; it may wait for room on the link."""
        self._latest = PolicyUpdate(version=0, weights="")
        self._evaluated: list[PolicyUpdate] = []
        """Versions that are evaluated and may still be loaded, oldest first: a late joiner must not skip them."""

    @property
    def version(self) -> int:
        """The latest published version."""
        return self._latest.version

    async def serve(self) -> None:
        """Answer peers until cancelled. Raises `ProtocolError` for a confirmation of what was never published."""
        while True:
            peer, message = await self._link.recv()
            match message:
                case GeneratorHello() | AllocatorHello():
                    self._peers[peer] = -1
                    if isinstance(message, GeneratorHello):
                        self._starts[message.replica] = message.incarnation
                        self._store.awaited(message.replica)
                    await self._announce(peer)
                case PolicyApplied():
                    if message.version > self.version:
                        raise ProtocolError(f"{peer} confirmed version {message.version}, the latest is {self.version}")
                    self._store.confirm(message.replica, message.version)
                    await asyncio.to_thread(self._store.prune, [update.version for update in self._evaluated])
                case PolicyScored():
                    if self._on_scored is not None:
                        await self._on_scored(message)

    def resume(self, version: int, *, last: bool = False) -> None:
        """Serve from this version on: its file, and that of the evaluated version before it, are written. Before
        anybody is served; a peer that was told of this version by an earlier start of the learner is told again."""
        if version:
            self._latest = self._update_of(version, last=last)
        due = self._schedule.due_between(0, version)
        if due and self._store.path_of(due[-1]).exists():
            self._evaluated = [self._update_of(due[-1])]

    def lost(self, replica: int, incarnation: int) -> None:
        """A start of a replica is gone; the next one introduces itself, and may have done so already."""
        if self._starts.get(replica, -1) > incarnation:
            return
        self._peers.pop(f"generator-{replica}", None)
        self._store.lost(replica)

    async def publish(self, version: int, *, last: bool = False) -> None:
        """The version's file is written: tell everyone. Returns when everyone was told, so none is left out."""
        self._latest = self._update_of(version, last=last)
        if self._schedule.is_due(version):
            self._evaluated.append(self._latest)
        await self._announce(*self._peers)

    def _update_of(self, version: int, *, last: bool = False) -> PolicyUpdate:
        return PolicyUpdate(version=version, weights=str(self._store.path_of(version)), last=last)

    async def _announce(self, *peers: str) -> None:
        async with self._announcing:  # each send reads the latest version, and sends do not overtake each other
            for peer in peers:
                self.telling = peer
                try:
                    await self._tell(peer)
                except LinkBroken as error:
                    _log.info("%s is no longer told of new versions: %s", peer, error)
                    self._peers.pop(peer, None)
                finally:
                    self.telling = ""

    async def _tell(self, peer: str) -> None:
        latest = self._latest
        # What is removed was served by every replica, or by none that is left: its evaluation is over.
        self._evaluated = [update for update in self._evaluated if update.version > self._store.gone_through]
        for evaluated in list(self._evaluated):
            if self._peers.get(peer, -1) < evaluated.version < latest.version:
                await self._link.send(peer, evaluated)
        await self._link.send(peer, latest)
        self._peers[peer] = latest.version
