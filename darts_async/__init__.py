"""darts-async: asynchronous RL post-training with length-aware selection (DARTS, arXiv 2605.30859).

The library half of the project: configuration, messages, transport, the pure algorithms, tasks, engines and the
launcher. It knows nothing of the `actors` package; the launcher starts roles by module name.

From Python: `darts_async.run(config)` and `await darts_async.arun(config)` (loaded when they are asked for).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts_async.api import Result, arun, run
    from darts_async.errors import ConfigError, RunFailed, RunInterrupted

__version__ = "0.1.0"
__all__ = ["ConfigError", "Result", "RunFailed", "RunInterrupted", "__version__", "arun", "run"]

_HOME = dict.fromkeys(("Result", "arun", "run"), "api") | dict.fromkeys(
    ("ConfigError", "RunFailed", "RunInterrupted"), "errors"
)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
