"""One way to run an actor's tasks: together, until the work is done, the run is stopped, or one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class _Leave(Exception):
    """Ends the task group from inside; never leaves this module."""


async def run_until(stopping: asyncio.Event, *tasks: Coroutine[Any, Any, None]) -> None:
    """Run tasks in one TaskGroup. When `stopping` is set, cancel what is left and return. A failure of any ends all.

    A task may return early (its work is done); the others go on.
    """

    async def watch() -> None:
        await stopping.wait()
        raise _Leave

    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
            group.create_task(watch())
    except BaseExceptionGroup as failures:
        _, real = failures.split(_Leave)
        if real is not None:
            raise real from None
