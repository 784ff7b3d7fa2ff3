"""Starting a process where several threads may have an event loop each, as runs from Python do.

uvloop forks for one loop at a time and raises in the other that comes meanwhile; here it waits its turn.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

__all__ = ["spawn"]

_TURN: Final = threading.RLock()
"""Tasks of one thread never fork at the same moment: for them it is always free. Held while a process starts, by a
thread whose loop goes on by itself, so that others wait some milliseconds and never for each other."""


async def spawn(*command: str, **options: Any) -> asyncio.subprocess.Process:
    """`asyncio.create_subprocess_exec`, in its turn."""
    with _TURN:
        return await asyncio.create_subprocess_exec(*command, **options)
