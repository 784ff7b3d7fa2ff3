"""Tasks: prompts and exact verifiers. Light on purpose: importing this package pulls in no model library.

A further task is one more entry in the registry below, never a branch elsewhere; somebody's own is named by its import
path. What a task needs beyond the base install is imported when that task is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Final

from darts_async.config.import_path import is_import_path
from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt, Response, Task
from darts_async.tasks.chain_arithmetic import ChainArithmetic

__all__ = ["TASKS", "Prompt", "Response", "Task", "load_task"]


def _reasoning_gym(params: Mapping[str, object]) -> Task:
    from darts_async.tasks.reasoning import ReasoningGym  # noqa: PLC0415 - only who uses it loads it

    return ReasoningGym.from_params(params)


def _data(name: str) -> Callable[[Mapping[str, object]], Task]:
    def load(params: Mapping[str, object]) -> Task:
        from darts_async.tasks.own_data import DATA_TASKS  # noqa: PLC0415 - only who uses it loads it

        return DATA_TASKS[name](params)

    return load


TASKS: Final[Mapping[str, Callable[[Mapping[str, object]], Task]]] = {
    "chain_arithmetic": ChainArithmetic.from_params,
    "dataset": _data("dataset"),
    "jsonl": _data("jsonl"),
    "parquet": _data("parquet"),
    "reasoning_gym": _reasoning_gym,
}


def load_task(name: str, params: Mapping[str, object]) -> Task:
    """Build the task `name` from its parameters (`[task.params]`).

    Raises ConfigError when the name, or one of the parameters, is not usable.
    """
    if is_import_path(name):
        from darts_async.tasks.own_task import OwnTask  # noqa: PLC0415 - only who uses it loads it

        return OwnTask(name, params)
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=1)
        raise ConfigError(
            key="task.name",
            value=name,
            rule=f"there is no such task (known: {', '.join(sorted(TASKS))})",
            fix=f"Did you mean {near[0]!r}?" if near else "Use one of the known names, or `path/to/file.py:YourTask`.",
        )
    return TASKS[name](params)
