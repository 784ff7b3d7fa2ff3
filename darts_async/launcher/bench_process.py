"""The process that runs the cells of one engine start, as its parent sees it: spawned, listened to, ended.

Invariant: whatever happens to it, every cell that it began has a summary, and nothing of it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from darts_async.bench.events import CellEnded, CellStarted, CellStep, EngineReady, Event, decode
from darts_async.bench.plan import Cell, SeedPlan
from darts_async.launcher import shared_weights
from darts_async.launcher.bench_view import BenchView
from darts_async.launcher.roles import environment
from darts_async.runtime.record import RunRecord

_GRACE_S: Final = 30.0
"""How long the process may take, beyond a cell's deadline, to end the cell by itself; and to leave when told to."""


class Interrupts:
    """Ctrl-C: the first one drains, the second one kills."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __call__(self) -> None:
        """One more."""
        (self.second if self.first.is_set() else self.first).set()


class SeedProcess:
    """One engine start and the cells it is for. Their run folders exist. `run` once."""

    def __init__(
        self, cells: Sequence[Cell], log: Path, cell_timeout_s: float, view: BenchView, interrupts: Interrupts
    ) -> None:
        self._cells = {cell.name: cell for cell in cells}
        self._left = dict(self._cells)
        self._config = cells[0].config
        self._log = log
        self._cell_timeout_s = cell_timeout_s
        self._view = view
        self._interrupts = interrupts
        self._current: str | None = None
        """The cell that has begun and not ended."""

    async def run(self) -> list[Cell]:
        """Run the cells; return those that need another engine, because this one was lost. Fewer with every call."""
        paths = [str(cell.paths.resolved_config) for cell in self._cells.values()]
        self._view.starting(self._config.run.seed, self._log)
        try:
            with tempfile.TemporaryDirectory(prefix="darts-") as folder:
                plan = Path(folder) / "plan.json"
                plan.write_bytes(msgspec.json.encode(SeedPlan(tuple(paths), self._cell_timeout_s)))
                reason = await self._serve(plan)
        finally:
            for cell in self._cells.values():
                shared_weights.remove(cell.paths.weights)
        if self._interrupts.first.is_set():
            if self._current is not None:
                self._write_off(self._current, "interrupted", reason)
            return []
        if self._current is not None:
            self._write_off(self._current, "failed", reason)
        elif len(self._left) == len(self._cells):
            for name in list(self._left):
                self._write_off(name, "failed", f"no engine: {reason}")
        return list(self._left.values())

    async def _serve(self, plan: Path) -> str:
        """Start the process, pass on what it tells, and see to its end. Return how it ended."""
        with self._log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "actors.bench", "--plan", str(plan)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                env=environment(self._config, "generator"),
            )
        assert process.stdout is not None
        interrupting = asyncio.create_task(self._pass_interrupts_on(process))
        try:
            silence = await self._listen(process.stdout)
            if not silence:
                await process.wait()
        finally:
            interrupting.cancel()
            _kill(process)  # and whatever it has started (an engine's process too)
            await process.wait()
        return silence or f"the process of the cells ended with status {process.returncode} (log: {self._log})"

    async def _listen(self, stdout: asyncio.StreamReader) -> str:
        """Until the process ends, or a deadline passes: then say which."""
        config = self._config
        limit_s, what = config.launch.ready_timeout_s, "the engine did not start (launch.ready_timeout_s)"
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + limit_s
        while True:
            try:
                async with asyncio.timeout_at(deadline_s):
                    line = await stdout.readline()
            except TimeoutError:
                return f"{what} within {limit_s:g} s, and its process had to be killed (log: {self._log})"
            if not line:
                return ""
            event = decode(line)
            if isinstance(event, CellStarted):
                limit_s = self._cell_timeout_s + config.launch.drain_timeout_s + _GRACE_S
                what = "the cell did not end (--cell-timeout, and the time to drain)"
                deadline_s = loop.time() + limit_s
            elif isinstance(event, CellEnded | EngineReady):
                limit_s, what = _GRACE_S, "the process of the cells did not go on"
                deadline_s = loop.time() + limit_s
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case EngineReady():
                self._view.ready(self._config.run.seed, event.wall_s)
            case CellStarted():
                self._current = event.name
                self._view.cell(self._cells[event.name])
            case CellStep():
                self._view.step(self._cells[event.name], event.step)
            case CellEnded():
                self._current = None
                self._view.ended(self._left.pop(event.name), event.status, event.reason, self._log)

    async def _pass_interrupts_on(self, process: asyncio.subprocess.Process) -> None:
        await self._interrupts.first.wait()
        self._view.note("interrupted: draining (press Ctrl-C again to kill at once)")
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._interrupts.second.wait()
        _kill(process)

    def _write_off(self, name: str, status: Literal["failed", "interrupted"], reason: str) -> None:
        """A cell whose process could not say what became of it."""
        cell = self._left.pop(name)
        summary = RunRecord().summary(status=status, wall_s=0.0, reason=reason)
        cell.paths.summary.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
        self._view.ended(cell, status, reason, self._log)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
