"""Files that a config names are looked for in the folder the run is started in, then beside the config.

So a config, its data and its reward functions can lie in one folder and be used from anywhere. Only what is found
nowhere but beside the config is changed, into an absolute path; all else stays as it was written.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["find_beside"]

_FILES: Final = (("model", "path"), ("model", "chat_template"), ("learner", "reference"))
_WORDS: Final = frozenset({"quickstart", "plain"})
"""Values of these keys that are no paths."""
_DATA: Final = ("path", "held_out")
"""Of `task.params`."""
_FUNCTIONS: Final = (("task", "name"), ("learner", "loss"), ("learner", "advantage"))


def find_beside(document: dict[str, Any], folder: Path) -> None:
    """Change the paths of a config that was read in `folder`, in place. Never raises: what is wrong is told later."""

    def file(value: str) -> str:
        if value in _WORDS:
            return value
        return value if _is_there(Path(value)) or not _is_there(folder / value) else str((folder / value).absolute())

    def function(value: str) -> str:
        place, colon, name = value.rpartition(":")
        return f"{file(place)}:{name}" if colon and place.endswith(".py") else value

    for section, key in _FILES:
        _change(document.get(section), key, file)
    for section, key in _FUNCTIONS:
        _change(document.get(section), key, function)
    task, reward = document.get("task"), document.get("reward")
    for key in _DATA:
        _change(task.get("params") if isinstance(task, dict) else None, key, file)
    functions = reward.get("functions") if isinstance(reward, dict) else None
    for one in functions if isinstance(functions, list) else ():
        _change(one, "name", function)


def _change(table: Any, key: str, change: Callable[[str], str]) -> None:
    if not isinstance(table, dict):
        return
    value = table.get(key)
    if isinstance(value, str) and value:
        table[key] = change(value)
    elif isinstance(value, list):
        table[key] = [change(one) if isinstance(one, str) and one else one for one in value]


def _is_there(path: Path) -> bool:
    try:
        return path.expanduser().exists() or bool(glob.glob(str(path)))  # noqa: PTH207 - may be absolute
    except (OSError, ValueError):  # too long, or with a NUL
        return False
