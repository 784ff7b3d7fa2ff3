"""The k shortest candidates of a group, and whether that set is certain yet.

A finished candidate has the key `(capped, length, index)`. One that still runs with t tokens will end with at least
`(False, t + 1, index)`. The set is settled once no running candidate can end below the set's largest key.

Incremental: only the candidates that still *block* the certificate are looked at. Progress costs O(1), a finish or a
removal O(group). Must never know about rules, rewards or time: arrival order cannot enter here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final, TypeAlias

__all__ = ["UNBOUNDED", "Key", "ShortSet"]

Key: TypeAlias = tuple[bool, int, int]
"""Capped, length in tokens, index in the group: the total order of DESIGN 2.1."""

UNBOUNDED: Final = 1 << 62
"""A size no group reaches: such a set is settled when every candidate is decided."""


class ShortSet:
    """The certificate over a group's `size` shortest candidates."""

    __slots__ = ("_blocking", "_bounds", "_keys", "_limit", "size")

    def __init__(self, size: int) -> None:
        """Raise `ValueError` for a size below 1."""
        if size < 1:
            raise ValueError(f"a short set needs a size of at least 1, got {size}")
        self.size = size
        self._keys: list[Key] = []
        """Finished candidates in order."""
        self._bounds: dict[int, int] = {}
        """Running candidates and the tokens they are known to have."""
        self._blocking: set[int] = set()
        """Running candidates that could still end below the limit; all of them while the set is not full."""
        self._limit: Key | None = None
        """The largest key of the full set."""

    @property
    def settled(self) -> bool:
        """Whether nothing that still runs can change the set (trivially true when nothing runs)."""
        return not self._blocking

    @property
    def full(self) -> bool:
        """Whether `size` candidates have finished."""
        return self._limit is not None

    @property
    def limit_length(self) -> int:
        """Length of the longest member: what a candidate had to stay below. 0 while nothing finished."""
        if self._limit is not None:
            return self._limit[1]
        return max((key[1] for key in self._keys), default=0)

    def add(self, index: int) -> None:
        """A candidate that has not started: its length is at least 1."""
        self._bounds[index] = 0
        if self._limit is None or (False, 1, index) < self._limit:
            self._blocking.add(index)

    def progress(self, index: int, tokens: int) -> bool:
        """Raise the lower bound of a running candidate. Returns whether this very event settled the set."""
        bounds = self._bounds
        if bounds.get(index, tokens) >= tokens:
            return False
        bounds[index] = tokens
        limit = self._limit
        if limit is None or index not in self._blocking or (False, tokens + 1, index) < limit:
            return False
        self._blocking.remove(index)
        return not self._blocking

    def finish(self, key: Key) -> None:
        """Enter a running candidate's final key."""
        index = key[2]
        self._bounds.pop(index, None)
        self._blocking.discard(index)
        insort(self._keys, key)
        if len(self._keys) < self.size:
            return
        limit = self._keys[self.size - 1]
        if self._limit is None or limit < self._limit:
            self._limit = limit
            # A lower limit only ever frees blockers.
            self._blocking = {i for i in self._blocking if (False, self._bounds[i] + 1, i) < limit}

    def remove(self, index: int, key: Key | None = None) -> None:
        """Take out a candidate that failed: a running one, or a finished one under its `key`."""
        self._bounds.pop(index, None)
        self._blocking.discard(index)
        if key is None:
            return
        del self._keys[bisect_left(self._keys, key)]
        # The limit may rise, or be gone: whoever was cleared before may block again.
        self._limit = self._keys[self.size - 1] if len(self._keys) >= self.size else None
        limit = self._limit
        self._blocking = {i for i, tokens in self._bounds.items() if limit is None or (False, tokens + 1, i) < limit}
