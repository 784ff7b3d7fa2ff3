"""Where every asyncio task of this process stands, as text for its log: what `faulthandler` cannot see.

Tasks that stand at the same place are shown once, with their number, so that a thousand candidates are a few lines.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

__all__ = ["task_stacks"]

_MAX_PLACES: Final = 100
_MAX_DEPTH: Final = 40


def task_stacks() -> str:
    """Return the stacks of all tasks of the running loop but the current one, those that most tasks share first."""
    places: dict[str, list[str]] = {}
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        places.setdefault(_place(task), []).append(task.get_name())
    lines = []
    for place, names in sorted(places.items(), key=lambda item: -len(item[1]))[:_MAX_PLACES]:
        count = f"{len(names)} tasks, one is {names[0]}" if len(names) > 1 else names[0]
        lines.append(f"{count}\n{place}")
    return "\n".join(lines)


def _place(task: asyncio.Task[object]) -> str:
    """The frames from the task's own coroutine to what it awaits (`Task.get_stack` has only the first of them)."""
    frames: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None and len(frames) < _MAX_DEPTH:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                name = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                frames.append(f"    {name}")
                waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
                break
        else:
            break  # a future, or something of an extension: where the chain leaves Python
    return "\n".join(frames)
