"""The stall watchdog: when nothing has progressed for `launch.stall_s`, everything that explains it goes to the logs.

`logs/stalls.log` gets who waits for whom; every role's log gets that and where its threads and tasks stand. Once for
each stall; it ends nothing: whether to wait or to give up is a person's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from darts_async.algorithms.stall import StallWatch
from darts_async.algorithms.wait_graph import Explanation
from darts_async.launcher.roles import RoleProcess
from darts_async.messages import ShowStacks
from darts_async.owned_files import open_log

__all__ = ["Watchdog"]

_MAX_CHARS: Final = 8000
_SEND_S: Final = 1.0
"""For room on the link to a role: one that is stuck may have left none."""


class Watchdog:
    """Of one run. `watch` must be running."""

    def __init__(
        self,
        stall_s: float,
        log: Path,
        *,
        explain: Callable[[], Explanation],
        roles: Callable[[], Iterable[RoleProcess]],
        send: Callable[[RoleProcess, ShowStacks], Awaitable[None]],
        warn: Callable[[str], None],
    ) -> None:
        self._stall = StallWatch(stall_s)
        self.log = log
        self._explain = explain
        self._roles = roles
        self._send = send
        self._warn = warn
        self._news = asyncio.Event()

    @property
    def still_s(self) -> float:
        """For how long nothing has progressed."""
        return self._stall.still_s(time.monotonic())

    @property
    def num_stalls(self) -> int:
        """Stalls so far."""
        return self._stall.num_stalls

    def set_stall_s(self, stall_s: float) -> None:
        """Another patience, from now on."""
        self._stall.stall_s = stall_s
        self._news.set()

    def begin(self) -> None:
        """All roles work."""
        self._stall.start(time.monotonic())
        self._news.set()

    def end(self) -> None:
        """The run winds down."""
        self._stall.stopped()

    def heard(self, role: RoleProcess, progress: int) -> None:
        """A role's counter."""
        self._stall.heard(role.name, progress, time.monotonic())

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stall.due_in_s(time.monotonic())):
                    await self._news.wait()
            if self._stall.is_stalled(time.monotonic()):
                await self._report()

    async def _report(self) -> None:
        found = self._explain()
        still_s = self.still_s
        text = "\n".join((f"nothing has progressed for {still_s:.0f} s:", *found.sentences, found.verdict))
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._write, text)
        self._warn(
            f"nothing has progressed for {still_s:.0f} s (launch.stall_s = {self._stall.stall_s:g}): {found.verdict}. "
            f"Who waits for whom: {self.log}; where everybody stands: {self.log.parent}"
        )
        for role in list(self._roles()):
            if role.ready and not role.gone and not role.finished:
                await self._show_stacks(role, text[:_MAX_CHARS])

    async def _show_stacks(self, role: RoleProcess, reason: str) -> None:
        """Its tasks, where its loop still listens; its threads in any case."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SEND_S):
                await self._send(role, ShowStacks(reason=reason))
        if role.is_here:
            with contextlib.suppress(ProcessLookupError):
                # The role alone, never its group: an engine's child has no handler, and would die of it.
                os.kill(role.process.pid, signal.SIGUSR1)

    def _write(self, text: str) -> None:
        stamp = dt.datetime.now().astimezone().isoformat(timespec="seconds")
        with os.fdopen(open_log(self.log), "a", encoding="utf-8") as log:
            log.write(f"{stamp} {text}\n\n")
