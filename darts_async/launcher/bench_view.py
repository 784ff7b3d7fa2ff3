"""What a person sees while a table is made: a bar over all steps on a terminal, a line a cell everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from darts_async.bench.plan import Cell


class BenchView:
    """Lines go above the bar; without a terminal there is no bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None)
        self._numbers: dict[str, str] = {}
        self._steps: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def begin(self, cells: Sequence[Cell], todo: Sequence[Cell]) -> None:
        """These cells make the table; those are still to be run."""
        self._numbers = {cell.name: f"cell {number}/{len(cells)}" for number, cell in enumerate(cells, 1)}
        self._progress.update(self._bar, total=sum(cell.config.run.steps for cell in todo))
        if len(todo) < len(cells):
            self.note(f"{len(cells) - len(todo)} of {len(cells)} cells are done already")

    def starting(self, seed: int, log: Path) -> None:
        """An engine starts."""
        self.note(f"seed {seed}: starting the engine (log: {log})")
        self._progress.update(self._bar, description=f"seed {seed}: starting the engine")

    def ready(self, seed: int, wall_s: float) -> None:
        """The engine serves."""
        self.note(f"seed {seed}: the engine is ready after {wall_s:.0f} s")

    def cell(self, cell: Cell) -> None:
        """A cell begins."""
        self._progress.update(self._bar, description=cell.name)

    def step(self, cell: Cell, step: int) -> None:
        """A step of it is complete."""
        self._steps[cell.name] = step + 1
        self._progress.update(self._bar, advance=1)

    def scored(self, cell: Cell, version: int) -> None:
        """A checkpoint of it was scored."""
        self._progress.update(self._bar, description=f"{cell.name}: scored step {version}")

    def ended(self, cell: Cell, status: str, reason: str, log: Path) -> None:
        """It is over."""
        number = self._numbers.get(cell.name, "cell")
        if status == "done":
            self.note(f"{number}: {cell.name} done")
        else:
            self.note(f"{number}: {cell.name} {status}{': ' + reason if reason else ''} (log: {log})")
            # Its steps will not come: the bar counts what is left to do.
            missing = cell.config.run.steps - self._steps.get(cell.name, 0)
            self._progress.update(self._bar, advance=missing)

    def note(self, text: str) -> None:
        """Something a person should read."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)
