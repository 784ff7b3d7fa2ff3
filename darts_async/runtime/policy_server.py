"""The learner's side of the policy link: the latest version is state that every peer is told, not an event to catch.

Invariants: a peer that introduces itself learns the latest version, whenever it comes; no peer is told an older
version after a newer one; a published file exists for as long as some replica may still load it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from darts_async.errors import LinkBroken, ProtocolError
from darts_async.messages import AllocatorHello, GeneratorHello, PolicyApplied, PolicyReply, PolicyUpdate

if TYPE_CHECKING:
    from darts_async.engines.weight_store import WeightStore
    from darts_async.transport.links import Hub

_log = logging.getLogger(__name__)


class PolicyServer:
    """Serves version 0 (the model folder itself) until the first `publish`."""

    def __init__(self, link: Hub[PolicyUpdate, PolicyReply], store: WeightStore) -> None:
        self._link = link
        self._store = store
        self._peers: dict[str, None] = {}
        self._announcing = asyncio.Lock()
        self._latest = PolicyUpdate(version=0, weights="")

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
                    self._peers[peer] = None
                    await self._announce(peer)
                case PolicyApplied():
                    if message.version > self.version:
                        raise ProtocolError(f"{peer} confirmed version {message.version}, the latest is {self.version}")
                    self._store.confirm(message.replica, message.version)
                    await asyncio.to_thread(self._store.prune)

    async def publish(self, version: int) -> None:
        """The version's file is written: tell everyone."""
        self._latest = PolicyUpdate(version=version, weights=str(self._store.path_of(version)))
        await self._announce(*self._peers)

    async def _announce(self, *peers: str) -> None:
        async with self._announcing:  # each send reads the latest version, and sends do not overtake each other
            for peer in peers:
                try:
                    await self._link.send(peer, self._latest)
                except LinkBroken as error:
                    _log.info("%s is no longer told of new versions: %s", peer, error)
                    self._peers.pop(peer, None)
