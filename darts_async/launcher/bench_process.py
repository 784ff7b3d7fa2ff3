"""The process that runs the cells of one engine start, as its parent sees it: spawned, listened to, ended.

Invariant: whatever happens to it, every cell that it began has a summary, and nothing of it is left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from darts_async.bench.events import CellEnded, CellScored, CellStarted, CellStep, EngineReady, Event, decode
from darts_async.bench.plan import Cell, SeedPlan
from darts_async.launcher import shared_weights
from darts_async.launcher.bench_view import BenchView
from darts_async.launcher.job_process import GRACE_S, Deadline, Interrupts, JobProcess
from darts_async.runtime.record import RunRecord


class SeedProcess:
    """One engine start and the cells it is for. Their run folders exist. `run` once."""

    def __init__(
        self,
        cells: Sequence[Cell],
        log: Path,
        cell_timeout_s: float,
        view: BenchView,
        interrupts: Interrupts,
        twin: str = "",
    ) -> None:
        self._cells = {cell.name: cell for cell in cells}
        self._left = dict(self._cells)
        self._config = cells[0].config
        self._log = log
        self._cell_timeout_s = cell_timeout_s
        self._view = view
        self._interrupts = interrupts
        self._twin = twin
        self._current: str | None = None
        """The cell that has begun and not ended."""

    async def run(self) -> list[Cell]:
        """Run the cells; return those that need another engine, because this one was lost. Fewer with every call."""
        paths = [str(cell.paths.resolved_config) for cell in self._cells.values()]
        if not self._twin:
            self._view.starting(self._config.run.seed, self._log)
        plan = msgspec.json.encode(SeedPlan(tuple(paths), self._cell_timeout_s, self._twin))
        process = JobProcess("actors.bench", self._config, self._log, self._interrupts, self._view.note)
        first = Deadline(self._config.launch.ready_timeout_s, "the engine did not start (launch.ready_timeout_s)")
        try:
            reason = (await process.run(plan, first, self._take)).reason
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

    def _take(self, line: bytes) -> Deadline | None:
        event = decode(line)
        self._show(event)
        if isinstance(event, CellStarted):
            limit_s = self._cell_timeout_s + self._config.launch.drain_timeout_s + GRACE_S
            return Deadline(limit_s, "the cell did not end (--cell-timeout, and the time to drain)")
        if isinstance(event, CellScored):
            return Deadline(self._cell_timeout_s, "a checkpoint was not scored within --cell-timeout")
        if isinstance(event, CellEnded | EngineReady):
            return Deadline(GRACE_S, "the process of the cells did not go on")
        return None

    def _show(self, event: Event) -> None:
        match event:
            case EngineReady() if self._twin:
                pass
            case EngineReady():
                self._view.ready(self._config.run.seed, event.wall_s)
            case CellStarted():
                self._current = event.name
                self._view.cell(self._cells[event.name])
            case CellStep():
                self._view.step(self._cells[event.name], event.step)
            case CellScored():
                self._view.scored(self._cells[event.name], event.version)
            case CellEnded():
                self._current = None
                self._view.ended(self._left.pop(event.name), event.status, event.reason, self._log)

    def _write_off(self, name: str, status: Literal["failed", "interrupted"], reason: str) -> None:
        """A cell whose process could not say what became of it."""
        cell = self._left.pop(name)
        summary = RunRecord().summary(status=status, wall_s=0.0, reason=reason)
        cell.paths.summary.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
        self._view.ended(cell, status, reason, self._log)
