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

    lost = ended
    """A peer is gone, and what it had to say is lost."""

    def back(self, name: str) -> None:
        """A new start of a peer is there."""
        self._open.add(name)
        self._over.clear()

    async def over(self) -> None:
        """Wait until nobody is missing."""
        await self._over.wait()
