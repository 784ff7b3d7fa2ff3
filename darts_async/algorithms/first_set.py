"""The first k candidates to finish: the one certificate that goes by arrival (rule `first_finished`).

Same interface as `ShortSet`, so that a group need not know which it has. It is certain once k have finished; then all
that still run are outside.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from darts_async.algorithms.short_set import Key

__all__ = ["FirstSet"]


class FirstSet:
    """The certificate over a group's first `size` finishers."""

    __slots__ = ("_num_finished", "_running", "size")

    def __init__(self, size: int) -> None:
        """Raise `ValueError` for a size below 1."""
        if size < 1:
            raise ValueError(f"a set of finishers needs a size of at least 1, got {size}")
        self.size = size
        self._num_finished = 0
        self._running: dict[int, int] = {}

    @property
    def settled(self) -> bool:
        """Whether enough have finished, or nobody is left who could."""
        return self._num_finished >= self.size or not self._running

    @property
    def cleared(self) -> list[int]:
        """Running candidates that come too late."""
        return list(self._running) if self._num_finished >= self.size else []

    def exceeds(self, index: int) -> int:
        """A late candidate is longer than what it has: no length decided about it."""
        return self._running[index]

    def min_outside(self, members: AbstractSet[int]) -> int:
        """At least how many of `members` come too late."""
        return len(members & self._running.keys()) if self._num_finished >= self.size else 0

    def add(self, index: int) -> None:
        """A candidate that has not started."""
        self._running[index] = 0

    def progress(self, index: int, tokens: int) -> bool:
        """Keep count; progress decides nothing here."""
        if self._running.get(index, tokens) < tokens:
            self._running[index] = tokens
        return False

    def finish(self, key: Key) -> None:
        """A candidate finished."""
        self._running.pop(key[2], None)
        self._num_finished += 1

    def remove(self, index: int, key: Key | None = None) -> None:
        """Take out a candidate that failed or was cancelled: a running one, or a finished one under its `key`."""
        self._running.pop(index, None)
        self._num_finished -= key is not None
