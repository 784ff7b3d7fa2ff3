"""A user's own function by import path: `package.module:function` or `path/to/file.py:function`.

`check_import_path` looks at the text alone, so that a config can be checked without running anybody's code.
`load_function` imports; what then fails is a `ConfigError` with the key, as any other setting that cannot work.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from darts_async.errors import ConfigError

__all__ = [
    "call_failed",
    "check_import_path",
    "described",
    "find_module",
    "is_import_path",
    "load_function",
    "load_object",
]

_OURS = str(Path(__file__).resolve().parent.parent) + "/"
_STDLIB = sysconfig.get_path("stdlib") + "/"
_FIX = "Write `package.module:function`, or `path/to/file.py:function` (from the folder the run is started in)."


def is_import_path(name: str) -> bool:
    """Whether a setting that takes a built-in name or an import path holds the latter."""
    return ":" in name


def check_import_path(key: str, value: str) -> None:
    """Raise `ConfigError` unless `value` is written as an import path."""
    place, _, function = value.rpartition(":")
    if not function.isidentifier():
        raise ConfigError(key, value, f"`{function}` after the colon is no name of a function", _FIX)
    if not place.endswith(".py") and not all(part.isidentifier() for part in place.split(".")):
        raise ConfigError(key, value, f"`{place}` before the colon is neither a module nor a .py file", _FIX)


def find_module(key: str, value: str) -> None:
    """Raise `ConfigError` unless the file, or the top-level package of the module, is there. Imports nothing."""
    place = value.rpartition(":")[0]
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ConfigError(key, value, f"there is no file {Path(place).absolute()}", "Mend the path.")
        return
    with _working_directory_first():
        if importlib.util.find_spec(place.partition(".")[0]) is None:
            raise ConfigError(key, value, f"there is no module `{place}`", "Install it, or mend its name.")


def load_function(key: str, value: str, parameters: tuple[str, ...]) -> Callable[..., Any]:
    """Import the function and check that it can be called with that many positional arguments.

    Raises `ConfigError` for whatever is wrong with the path, the module (anything its code raises) or the function.
    A file is imported once for all functions of it.
    """
    function = load_object(key, value)
    name = value.rpartition(":")[2]
    try:
        inspect.signature(function).bind(*parameters)
    except (TypeError, ValueError) as error:
        expected = ", ".join(parameters)
        raise ConfigError(
            key, value, f"cannot be called as {name}({expected}): {error}", f"Define it as {name}({expected})."
        ) from None
    return function


def load_object(key: str, value: str) -> Callable[..., Any]:
    """Import a function or a class, whatever it takes. Raises `ConfigError` as `load_function` does."""
    check_import_path(key, value)
    find_module(key, value)
    place, _, name = value.rpartition(":")
    try:
        module = _file_module(Path(place).resolve()) if place.endswith(".py") else _named_module(place)
    except (Exception, SystemExit) as error:
        rule = f"cannot be imported: {described(error)}"
        raise ConfigError(key, value, rule, "Mend the module.") from error
    function: Any = getattr(module, name, None)
    if not callable(function):
        what = "is no function" if hasattr(module, name) else "is not there"
        raise ConfigError(key, value, f"`{name}` {what} in {module.__file__}", "Mend the name after the colon.")
    found: Callable[..., Any] = function
    return found


def call_failed(key: str, value: str, error: Exception) -> ConfigError:
    """Return what to raise when the function has raised `error`."""
    rule = f"raised {described(error)}"
    return ConfigError(key, value, rule, "Mend the function; the traceback is in the learner's log.")


def described(error: BaseException) -> str:
    """An error with its type, and with file and line of the last own code that it went through."""
    return f"{type(error).__name__}: {error}{_where(error)}"


def _file_module(path: Path) -> ModuleType:
    edited = path.stat().st_mtime_ns  # a notebook outlives its files: who mends one and runs again gets the new one
    name = f"_darts_async_user_{path.stem}_{abs(hash((path, edited))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named_module(name: str) -> ModuleType:
    with _working_directory_first():
        return importlib.import_module(name)


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """Modules beside the config are found whichever program asks: `python -m` has the folder in its path, a console
    script has not."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _where(error: BaseException) -> str:
    """The last line of somebody's own code that the error went through; libraries and this package left out."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        foreign = frame.filename.startswith((_OURS, _STDLIB, "<frozen")) or "site-packages" in frame.filename
        if not foreign:
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
