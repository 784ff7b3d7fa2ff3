"""Tasks that wait for their turn at one end of a link: first come, first served, and safe to cancel.

Invariant: the operation happens inside `attempt`, which is synchronous, and `take_turn` returns right after it. So a
task that is cancelled while it waits has done nothing: no message was taken or sent on its behalf.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

BURST = 64
"""Operations that a link serves at once before it lets the loop's other tasks run: a peer that is always ahead must not
hold the whole process."""


class Lane:
    """A queue of tasks in front of one resource (a message to take, or room for one)."""

    __slots__ = ("turns",)

    def __init__(self) -> None:
        self.turns: deque[_Turn] = deque()
        """Who waits; for looking at only."""

    def __len__(self) -> int:
        return len(self.turns)

    async def take_turn(self, attempt: Callable[[], R | None]) -> R:
        """Wait until all before are done and `attempt()` returns something; return that.

        For a task that has just found others waiting, or tried in vain itself. `attempt` is called once per `wake()`;
        None means not yet. What it raises is raised here.
        """
        turn = _Turn(asyncio.get_running_loop().create_future())
        self.turns.append(turn)
        try:
            while True:
                await turn.woken
                turn.woken = asyncio.get_running_loop().create_future()
                if (result := attempt()) is not None:
                    return result
        finally:
            self.turns.remove(turn)
            self.wake()

    def wake(self) -> None:
        """Let the first in the lane try again."""
        if self.turns and not self.turns[0].woken.done():
            self.turns[0].woken.set_result(None)

    def wake_all(self) -> None:
        """Let everybody try, in order: the link was closed and their attempts will raise."""
        for turn in self.turns:
            if not turn.woken.done():
                turn.woken.set_result(None)


class _Turn:
    __slots__ = ("woken",)

    def __init__(self, woken: asyncio.Future[None]) -> None:
        self.woken = woken
