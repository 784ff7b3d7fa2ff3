"""`darts-async report RUN [RUN ...]`: from run folders to one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from darts_async.config import Config
from darts_async.durable import replace_file
from darts_async.errors import ConfigError
from darts_async.report.gather import gather
from darts_async.report.page import render
from darts_async.runtime.traces import refresh_trace

__all__ = ["FILE", "find_folder", "write_report"]

FILE: Final = "report.html"


def find_folder(text: str) -> Path:
    """The folder of a run, given itself or its name in `runs/`; whether it is one is for `gather` to say."""
    named = Path(Config().run.dir) / text
    return (Path(text) if Path(text).exists() or not named.is_dir() else named).absolute()


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of these runs; return where. Raises `ConfigError`.

    Its default place is the run's folder, of several runs the current one.
    """
    for folder in folders:
        refresh_trace(folder)
    page = render(gather(folders)).encode("utf-8", errors="replace")
    path = out or (folders[0] / FILE if len(folders) == 1 else Path.cwd() / FILE)
    try:
        replace_file(path, page)
    except OSError as error:
        rule = f"cannot be written ({error.strerror or error})"
        raise ConfigError("--out", str(path), rule, "Name a file in a folder that exists and is yours.") from None
    return path
