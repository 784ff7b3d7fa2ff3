"""The k shortest candidates of a group: whether that set is certain yet, and who is certainly outside it.

A finished candidate has the key `(capped, length, index)`. One that still runs with t tokens will end with at least
`(False, t + 1, index)`. A running candidate is *cleared* once the k-th smallest finished key is below that bound: it
can never be in the set, whatever the others do. The others *block*; the set is settled when nobody blocks.

Incremental: progress costs O(1) unless a bound passes a member's key, a finish or a removal O(group). Must never know
about rules, rewards or time: arrival order cannot enter here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

__all__ = ["UNBOUNDED", "Key", "ShortSet"]

Key: TypeAlias = tuple[bool, int, int]
"""Capped, length in tokens, index in the group: the total order of DESIGN 2.1."""

UNBOUNDED: Final = 1 << 62
"""A size no group reaches: such a set is settled when every candidate is decided."""


class ShortSet:
    """The certificate over a group's `size` shortest candidates."""

    __slots__ = ("_blocking", "_bounds", "_keys", "size")

    def __init__(self, size: int) -> None:
        """Raise `ValueError` for a size below 1."""
        if size < 1:
            raise ValueError(f"a short set needs a size of at least 1, got {size}")
        self.size = size
        self._keys: list[Key] = []
        """Finished candidates in order."""
        self._bounds: dict[int, int] = {}
        """Running candidates and the tokens they are known to have."""
        self._blocking: dict[int, Key | None] = {}
        """Running candidates that can still be in the set, and the smallest member above their bound (None while
        the set is not full): until the bound passes it, their progress changes nothing."""

    @property
    def settled(self) -> bool:
        """Whether nothing that still runs can change the set (trivially true when nothing runs)."""
        return not self._blocking

    @property
    def full(self) -> bool:
        """Whether `size` candidates have finished."""
        return len(self._keys) >= self.size

    @property
    def limit_length(self) -> int:
        """Length of the longest member: what a candidate had to stay below. 0 while nothing finished."""
        if self.full:
            return self._keys[self.size - 1][1]
        return max((key[1] for key in self._keys), default=0)

    @property
    def cleared(self) -> list[int]:
        """Running candidates that are certainly outside the set."""
        if len(self._bounds) == len(self._blocking):
            return []
        return [index for index in self._bounds if index not in self._blocking]

    def exceeds(self, index: int) -> int:  # noqa: ARG002 - FirstSet's answer depends on it
        """The length that keeps a cleared candidate out, and that it exceeds (or equals, on a tie)."""
        return self.limit_length

    def add(self, index: int) -> None:
        """A candidate that has not started: its length is at least 1."""
        self._bounds[index] = 0
        self._blocking[index] = None
        self._place(index)

    def progress(self, index: int, tokens: int) -> bool:
        """Raise the lower bound of a running candidate. Returns whether something may have become certain by it."""
        bounds = self._bounds
        if bounds.get(index, tokens) >= tokens:
            return False
        bounds[index] = tokens
        above = self._blocking.get(index)
        if above is None or (False, tokens + 1, index) < above:
            return False
        self._place(index)
        return True

    def finish(self, key: Key) -> None:
        """Enter a running candidate's final key."""
        index = key[2]
        self._bounds.pop(index, None)
        self._blocking.pop(index, None)
        insort(self._keys, key)
        if self.full and key <= self._keys[self.size - 1]:
            # A lower limit only ever frees blockers.
            for blocker in list(self._blocking):
                self._place(blocker)

    def remove(self, index: int, key: Key | None = None) -> None:
        """Take out a candidate that failed or was cancelled: a running one, or a finished one under its `key`."""
        self._bounds.pop(index, None)
        self._blocking.pop(index, None)
        if key is None:
            return
        del self._keys[bisect_left(self._keys, key)]
        # The limit may rise, or be gone: whoever was cleared before may block again.
        for running in self._bounds:
            self._place(running)

    def min_outside(self, members: AbstractSet[int]) -> int:
        """At least how many of `members` (running or finished candidates) end outside the set, exactly.

        Over all ways the running candidates could end, their lengths having no upper bound. If m running candidates
        get in, the set is those m and the `size - m` shortest finished ones, and they get in when their bounds are
        below the first finished key that they push out; so for each m it is best to take as many members as possible.
        """
        if not self.full:
            return 0
        shortest = self._keys[: self.size]
        inside = [0]
        for key in shortest:
            inside.append(inside[-1] + (key[2] in members))
        most = inside[-1]
        able = {index: (False, self._bounds[index] + 1, index) for index in self._blocking}
        for num in range(1, self.size + 1):
            pushed_out = shortest[self.size - num]
            able = {index: bound for index, bound in able.items() if bound < pushed_out}
            if len(able) < num:
                break
            most = max(most, inside[self.size - num] + min(num, sum(index in members for index in able)))
        return len(members) - most

    def _place(self, index: int) -> None:
        """Find the smallest member above a running candidate's bound; it is cleared when there is none."""
        if not self.full:
            self._blocking[index] = None
            return
        place = bisect_left(self._keys, (False, self._bounds[index] + 1, index), hi=self.size)
        if place < self.size:
            self._blocking[index] = self._keys[place]
        else:
            self._blocking.pop(index, None)
