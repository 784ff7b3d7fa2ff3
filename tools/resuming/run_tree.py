"""A run and every process that descends from it, from outside: started as a person would, and killed at a stroke."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

__all__ = ["RunTree"]

_TAG = "DARTS_ASYNC_KILL_TAG"


class RunTree:
    """One start of `darts-async up`. Its output is in a file."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        self.began_s = time.monotonic()
        self._tag = uuid.uuid4().hex
        self._output = output
        self._groups: set[int] = set()
        with output.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "darts_async.cli", "up", *arguments],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                env={**os.environ, _TAG: self._tag},
            )

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text("utf-8", "replace")

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    @property
    def age_s(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.began_s

    def wait_for(self, text: str, timeout_s: float) -> bool:
        """Until it has printed this; False when it ended, or the time was over, before."""
        return self.wait_until(lambda: text in self.output, timeout_s)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Until something is so; False when it ended, or the time was over, before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.status is not None or time.monotonic() > deadline:
                return condition()
            time.sleep(0.02)
        return True

    def wait(self, timeout_s: float) -> int | None:
        """Until it has ended; None when it has not in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def processes(self) -> list[psutil.Process]:
        """All that live: by the mark in their environment, or the process group of one that had it (an engine's child
        renames itself, which writes over the environment that the kernel shows)."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                group = os.getpgid(process.pid)
                if process.environ().get(_TAG) == self._tag:
                    found.append(process)
                    if group == process.pid:
                        self._groups.add(group)
                elif group in self._groups:
                    found.append(process)
        return found

    def kill(self, *, launcher_only: bool = False) -> None:
        """SIGKILL to all of them, the launcher first, or to the launcher alone: the others die with it."""
        everybody = [] if launcher_only else self.processes()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        for process in everybody:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
