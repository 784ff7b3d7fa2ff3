"""What a person sees of a job: a bar or a clock on a terminal, a line a stage everywhere else; checks as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from darts_async.runtime.job_events import Check

__all__ = ["JobView", "check_table"]

_STYLES: Final = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


class JobView:
    """Lines go above the bar; without a terminal there is no bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        """The job turns to something else."""
        self._progress.reset(self._bar, total=None, description=text)
        self.note(text)

    def progressed(self, done: int, total: int) -> None:
        """So much of the stage is done."""
        self._progress.update(self._bar, completed=done, total=total)

    def note(self, text: str) -> None:
        """Something a person should read."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


def check_table(checks: Sequence[Check]) -> Table:
    """The checks, a row each, the remedy under what was found."""
    table = Table(show_lines=True)
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold")
    for check in checks:
        found = Text(check.measured)
        if check.remedy and check.status != "pass":
            found.append(f"\n-> {check.remedy}", style=_STYLES[check.status])
        table.add_row(Text(check.name), Text(check.status, style=_STYLES[check.status]), found)
    return table
