"""The processes that a role has started, as the kernel knows them: its process group and its session.

Invariant: `end` returns only when none of them is alive any more (one that is dead and waits for its parent to take
notice is not), or names those that outlived the deadline. It never touches a process outside the group's session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

__all__ = ["end", "kill", "members"]


def kill(leader: int) -> None:
    """SIGKILL to all processes of a group: a role and whatever it has started (an engine's children too)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def members(leader: int) -> list[int]:
    """Return the living processes of a leader's group or session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name, in parentheses, may hold spaces: fields are counted from behind it.
            state, _, group, session = path.read_text("utf-8", "replace").rpartition(")")[2].split()[:4]
            if leader in (int(group), int(session)) and state not in "ZX":
                found.append(int(path.parent.name))
    return found


async def end(leader: int, timeout_s: float) -> list[int]:
    """Kill a group, with what has left it within its session, and wait until all are gone; return who is not."""
    kill(leader)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while left := members(leader):
                for pid in left:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.gather(*(_ended(pid) for pid in left))
    return members(leader)


async def _ended(pid: int) -> None:
    """Wait until a process that need not be a child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
