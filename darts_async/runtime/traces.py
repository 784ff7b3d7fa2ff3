"""The trace of a run, for whoever has its config: opened where `metrics.trace` says so, merged when the run ends."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.tracing import TraceFile, merge_trace
from darts_async.tracing.trace_file import SUFFIX

__all__ = ["finish_trace", "open_trace", "refresh_trace"]

_log = logging.getLogger(__name__)


def open_trace(config: Config, name: str) -> TraceFile | None:
    """Open a process's file in the run folder; None where no trace is wanted, or there is no place for one."""
    if not config.metrics.trace:
        return None
    try:
        return TraceFile(RunPaths.of(config).trace, name, limit_bytes=config.metrics.trace_mib << 20)
    except OSError as error:
        _log.warning("no trace is recorded: %s", error)
        return None


def finish_trace(run_folder: Path) -> str:
    """Write `trace.json` of a run whose processes are gone; return what a person should know of it, mostly nothing."""
    try:
        merged = merge_trace(run_folder)
    except OSError as error:
        return f"trace.json was not written: {error}"
    return "" if merged is None or not merged.notes else f"{merged.path}: {'; '.join(merged.notes)}"


def refresh_trace(run_folder: Path) -> None:
    """Write `trace.json` of a run that goes on, or whose launcher was killed: where its processes have recorded more
    than is in there. What cannot be read or written is left as it is."""
    paths = RunPaths(run_folder)
    with contextlib.suppress(OSError):
        recorded_s = max((path.stat().st_mtime for path in paths.trace.glob(f"*{SUFFIX}")), default=0.0)
        merged_s = paths.trace_json.stat().st_mtime if paths.trace_json.exists() else 0.0
        if recorded_s > merged_s:
            merge_trace(run_folder)
