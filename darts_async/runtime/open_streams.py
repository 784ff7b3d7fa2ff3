"""Whose end of stream a receiver still has to wait for before it may close its books.

Invariant: a peer that is gone is not waited for while no new start of it has been heard of; one that came back is,
until this start of it has ended its stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

__all__ = ["OpenStreams"]


class OpenStreams:
    """The streams that come together at one receiver."""

    def __init__(self, names: Iterable[str]) -> None:
        self._open = set(names)
        self._starts: dict[str, int] = {}
        """Which start of a peer was heard of last."""
        self._over = asyncio.Event()

    @property
    def missing(self) -> list[str]:
        """Whose end is still to come, by name."""
        return sorted(self._open)

    def ended(self, name: str) -> None:
        """A peer has said all it had to say."""
        self._open.discard(name)
        if not self._open:
            self._over.set()

    def lost(self, name: str, incarnation: int = 0) -> None:
        """A start of a peer is gone, and what it had to say is lost; the next one may be there already."""
        if self._starts.get(name, -1) <= incarnation:
            self.ended(name)

    def back(self, name: str, incarnation: int = 0) -> None:
        """A new start of a peer is there, perhaps of one that nobody knew of before."""
        if incarnation < self._starts.get(name, 0):
            return  # old news
        self._starts[name] = incarnation
        self._open.add(name)
        self._over.clear()

    async def over(self) -> None:
        """Wait until nobody is missing."""
        await self._over.wait()
