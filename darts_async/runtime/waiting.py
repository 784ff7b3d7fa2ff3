"""What a role says of itself with every heartbeat: how far it got, and what it waits for, with ages.

A role hands over a function; it is called between two of its tasks' turns and must not wait, and what it returns must
be true at that moment. Ages are kept here: a thing is as old as the last change of its mark (seen once a heartbeat).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from darts_async.algorithms.wait_graph import Pending
from darts_async.messages import Wait

__all__ = ["Ages", "Look", "Outlook", "nothing"]

_log = logging.getLogger(__name__)
_MAX_WAITS: Final = 32
_MAX_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class Outlook:
    """A role's account of itself."""

    progress: int
    """Only rises."""
    pending: Sequence[Pending] = ()


Look: TypeAlias = Callable[[], Outlook]


def nothing() -> Outlook:
    """Of a role that has not begun."""
    return Outlook(0)


class Ages:
    """Remembers since when each thing has been as it is."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[object, float]] = {}

    def look(self, pending: Sequence[Pending], now_s: float) -> tuple[Wait, ...]:
        """Return what is waited for now, the oldest first. What is gone is forgotten."""
        since: dict[tuple[str, str], tuple[object, float]] = {}
        waits = []
        for item in pending[:_MAX_WAITS]:
            key = (item.whom, item.key or item.what)
            mark, began_s = self._since.get(key, (item.mark, now_s))
            since[key] = (item.mark, began_s if mark == item.mark else now_s)
            waits.append(Wait(item.whom[:_MAX_CHARS], item.what[:_MAX_CHARS], now_s - since[key][1]))
        self._since = since
        return tuple(sorted(waits, key=lambda wait: -wait.age_s))
