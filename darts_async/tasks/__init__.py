"""Tasks: prompts and exact verifiers. Light on purpose: importing this package pulls in no model library.

A second task is one more entry in the registry below, never a branch elsewhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Final

from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt, Task
from darts_async.tasks.chain_arithmetic import ChainArithmetic

__all__ = ["TASKS", "Prompt", "Task", "load_task"]


TASKS: Final[Mapping[str, Callable[[Mapping[str, object]], Task]]] = {
    "chain_arithmetic": ChainArithmetic.from_params,
}


def load_task(name: str, params: Mapping[str, object]) -> Task:
    """Build the task `name` from its parameters (`[task.params]`).

    Raises ConfigError when the name, or one of the parameters, is not usable.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=1)
        raise ConfigError(
            key="task.name",
            value=name,
            rule=f"there is no such task (known: {', '.join(sorted(TASKS))})",
            fix=f"Did you mean {near[0]!r}?" if near else "Use one of the known names.",
        )
    return TASKS[name](params)
