"""A function or class that was handed in, as the import path under which a role's process finds it again.

Only what stands at the top level of a module on disk has one: nothing is ever pickled or sent as source. The program
that calls cannot be that module, since a role that imported it would run it a second time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from darts_async.errors import ConfigError

__all__ = ["import_path_of"]

_MOVE = (
    "Put it into a file of its own, such as my_task.py (in a notebook: a cell that begins with `%%writefile "
    "my_task.py`), import it from there, and hand in what was imported."
)


_FIND = "import importlib.util, sys; spec = importlib.util.find_spec(sys.argv[1]); print(spec and spec.origin or '')"


def import_path_of(key: str, thing: Any) -> str:
    """Return `package.module:name`, or `/path/to/file.py:name`. Raises `ConfigError`."""
    name = getattr(thing, "__qualname__", None)
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if not isinstance(name, str) or module is None:
        raise ConfigError(key, thing, "is no function or class of a module", _MOVE)
    if module.__name__ == "__main__":
        rule = "is defined in the program that is running: the run's processes cannot import it from there"
        raise ConfigError(key, thing, rule, _MOVE)
    if not name.isidentifier() or getattr(module, name, None) is not thing:
        rule = f"is not found again as `{name}` at the top level of its module {module.__name__}"
        raise ConfigError(key, thing, rule, "Define it there with `def` or `class`, under the name that it has.")
    return f"{_place(key, thing, module)}:{name}"


def _place(key: str, thing: Any, module: ModuleType) -> str:
    """The module's file where it stands by itself and is not installed, found from any folder; else its dotted name."""
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise ConfigError(key, thing, f"its module {module.__name__} is no Python file", _MOVE)
    path = Path(file).resolve()
    is_alone = "." not in module.__name__ and path.name != "__init__.py"
    if is_alone and not any(path.is_relative_to(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)):
        return str(path)
    package = module.__name__.partition(".")[0]
    here = getattr(sys.modules.get(package), "__file__", None)
    if here is None or _found_anew(package) == Path(here).resolve():
        return module.__name__
    root = Path(here).resolve().parents[1]
    raise ConfigError(
        key,
        thing,
        f"its package `{package}` lies in {root}, where the run's processes do not look",
        f"Start Python in {root}, put that on PYTHONPATH, or install the package.",
    )


def _found_anew(package: str) -> Path | None:
    """Where a process that is started now finds a package: this one may have added folders of its own to its path."""
    command = [sys.executable, "-c", _FIND, package]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return Path(found).resolve() if found else None
