"""Rules of `[[reward.functions]]`: known names, one label each. Imports nothing of the user's."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Final

from darts_async.config.choices import REWARDS
from darts_async.config.import_path import check_import_path, is_import_path
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import Config, RewardFunctionSection

__all__ = ["OWN_VERIFIER", "check_rewards", "label_of"]

OWN_VERIFIER: Final = "task"
"""Stands for the task's own verifier."""


def label_of(function: RewardFunctionSection) -> str:
    """Return the name of a function in the metrics."""
    return function.label or function.name.rpartition(":")[2]


def check_rewards(config: Config) -> None:
    """Raise `ConfigError` for a name that is neither built in nor an import path, and for labels used twice."""
    if is_import_path(config.task.name):
        check_import_path("task.name", config.task.name)
    seen: set[str] = set()
    for index, function in enumerate(config.reward.functions):
        key = f"reward.functions[{index}]"
        if is_import_path(function.name):
            check_import_path(f"{key}.name", function.name)
        elif function.name not in (OWN_VERIFIER, *REWARDS):
            near = difflib.get_close_matches(function.name, (OWN_VERIFIER, *REWARDS), n=1)
            raise ConfigError(
                f"{key}.name",
                function.name,
                f"there is no such reward function (known: {OWN_VERIFIER}, {', '.join(REWARDS)})",
                f"Did you mean {near[0]!r}?" if near else "Use one of those, or `path/to/file.py:function`.",
            )
        if not math.isfinite(function.weight):
            raise ConfigError(f"{key}.weight", function.weight, "must be a finite number", "Mend it.")
        label = label_of(function)
        if label in seen:
            raise ConfigError(
                f"{key}.label",
                label,
                "two functions have this name in the metrics",
                'Give one of them `label = "..."`.',
            )
        seen.add(label)
