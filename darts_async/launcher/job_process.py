"""A process that works off one plan, as its parent sees it: spawned, listened to, ended.

Invariant: when `run` returns or raises, nothing of the process is left, nor of what it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from darts_async.config import Config
from darts_async.launcher.roles import environment
from darts_async.owned_files import open_log

__all__ = ["GRACE_S", "Deadline", "Interrupts", "JobEnd", "JobProcess"]

GRACE_S: Final = 30.0
"""How long a process may take to leave when told to."""


class Interrupts:
    """Ctrl-C: the first one drains, the second one kills."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __call__(self) -> None:
        """One more."""
        (self.second if self.first.is_set() else self.first).set()

    @contextlib.contextmanager
    def caught(self) -> Iterator[Self]:
        """Take SIGINT and SIGTERM of this process meanwhile."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self)
        try:
            yield self
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


@dataclass(frozen=True, slots=True)
class Deadline:
    """The next line has to come within a time."""

    limit_s: float
    what: str
    """What has not happened when it passes, and the setting that says so."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a process ended."""

    status: int | None
    """Its exit status (negative: the signal that killed it); None when it was killed here, for its silence."""
    reason: str
    """In words; it names the log."""


Take = Callable[[bytes], Deadline | None]
"""Gets a line; returns the deadline of the next one when that changes. May raise `msgspec.DecodeError`."""


class JobProcess:
    """One start of `python -m <module> --plan FILE`. `run` once."""

    def __init__(
        self, module: str, config: Config, log: Path, interrupts: Interrupts, note: Callable[[str], None]
    ) -> None:
        """config: what its environment follows from. note: is told what a person should read."""
        self._module = module
        self._config = config
        self._log = log
        self._interrupts = interrupts
        self._note = note

    async def run(self, plan: bytes, first: Deadline, take: Take) -> JobEnd:
        """Start the process, pass on what it tells, and see to its end."""
        with tempfile.TemporaryDirectory(prefix="darts-") as folder:
            file = Path(folder) / "plan.json"
            file.write_bytes(plan)
            with os.fdopen(open_log(self._log), "ab") as sink:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", self._module, "--plan", str(file)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=sink,
                    start_new_session=True,
                    env=environment(self._config, "generator"),
                )
            assert process.stdout is not None
            interrupting = asyncio.create_task(self._pass_interrupts_on(process))
            try:
                silence = await self._listen(process.stdout, first, take)
                if not silence:
                    await process.wait()
            finally:
                interrupting.cancel()
                _kill(process)  # and whatever it has started (an engine's process too)
                await process.wait()
        if silence:
            return JobEnd(None, silence)
        return JobEnd(process.returncode, f"its process ended with status {process.returncode} (log: {self._log})")

    async def _listen(self, stdout: asyncio.StreamReader, deadline: Deadline, take: Take) -> str:
        """Until the process ends (then ""), or a deadline passes, or it tells nonsense: then say which."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + deadline.limit_s
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    line = await stdout.readline()
                if not line:
                    return ""
                changed = take(line)
            except TimeoutError:
                return f"{deadline.what} within {deadline.limit_s:g} s, and its process was killed (log: {self._log})"
            except (msgspec.DecodeError, ValueError) as error:
                return f"its process told something that cannot be read: {error} (log: {self._log})"
            if changed is not None:
                deadline = changed
                until_s = loop.time() + deadline.limit_s

    async def _pass_interrupts_on(self, process: asyncio.subprocess.Process) -> None:
        await self._interrupts.first.wait()
        self._note("interrupted: draining (press Ctrl-C again to kill at once)")
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._interrupts.second.wait()
        _kill(process)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
