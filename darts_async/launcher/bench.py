"""`darts-async bench --live`: runs the cells that are missing, a process per engine start, and writes the table.

Invariants: a finished cell is never run again or touched; a cell that fails, hangs or takes the engine with it is
recorded with its reason and the others go on; when `run_table` returns, no process or shared-memory file is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from darts_async.algorithms.ledger_records import CandidateEnded
from darts_async.bench.columns import CellResult, TableForm
from darts_async.bench.plan import Cell
from darts_async.bench.table import to_csv, to_markdown
from darts_async.errors import ConfigError, LedgerDamaged
from darts_async.launcher.bench_plot import plot
from darts_async.launcher.bench_process import SeedProcess
from darts_async.launcher.bench_view import BenchView
from darts_async.launcher.job_process import Interrupts
from darts_async.launcher.preflight import check, check_run_folder, create_run_folder, make_run_folder
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.twin.profile import read_twin

_ENDED: Final = frozenset({"trained", "rejected", "stale"})
"""States of candidates whose length is whole."""


def run_table(
    cells: Sequence[Cell], out: Path, form: TableForm, *, cell_timeout_s: float, readme: Path | None, twin: str = ""
) -> int:
    """Run what is missing, write and show the table; return the exit status. Raises `ConfigError` before it starts.

    twin: name or path of the profile on which the cells run; empty: on the engine."""
    console = Console()
    if readme is not None:
        _parts(readme, form)
    _clear_unfinished(cells, twin=bool(twin))
    out.mkdir(parents=True, exist_ok=True)
    with BenchView(console) as view, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        whole = runner.run(run_cells(cells, out, cell_timeout_s, view, twin))
    found = _results(cells)
    table = _write_table(cells, found, out, form, twin)
    console.print(table, soft_wrap=True, markup=False, highlight=False)
    files = [out / "table.md", out / "table.csv"]
    if plot(found, out / "table.png"):
        files.append(out / "table.png")
    console.print(f"table: {', '.join(map(str, files))}", soft_wrap=True, markup=False, highlight=False)
    if not whole:
        return 130
    if readme is not None:
        head, tail = _parts(readme, form)
        begin, end = form.marks
        readme.write_text(f"{head}{begin}\n{table}{end}{tail}", "utf-8")
    return 0 if all(cell.done for cell in cells) else 1


async def run_cells(cells: Sequence[Cell], out: Path, cell_timeout_s: float, view: BenchView, twin: str) -> bool:
    """Run what is not done yet; return False when interrupted. Raises `ConfigError` before anything starts."""
    todo = [cell for cell in cells if not cell.done]
    view.begin(cells, todo)
    with Interrupts().caught() as interrupts:
        for seed in dict.fromkeys(cell.seed for cell in todo):
            left = [cell for cell in todo if cell.seed == seed]
            while left and not interrupts.first.is_set():
                for cell in left:
                    _clear(cell)
                    make_run_folder(cell.config) if twin else create_run_folder(check(cell.config, cell.preset))
                left = await SeedProcess(left, out / f"seed{seed}.log", cell_timeout_s, view, interrupts, twin).run()
    return not interrupts.first.is_set()


def _results(cells: Sequence[Cell]) -> list[CellResult]:
    """Read what the cells left on disk."""
    found = []
    for cell in cells:
        lines: list[dict[str, float]] = []
        with contextlib.suppress(OSError, ValueError):
            lines = [json.loads(line) for line in cell.paths.metrics.read_text("utf-8").splitlines()]
        found.append(CellResult(cell.preset, cell.seed, cell.summary(), lines, _lengths(cell)))
    fastest: dict[int, float] = {}
    for result in found:
        if result.summary is not None and result.done and (took_s := result.summary.get("bench", {}).get("training_s")):
            fastest[result.seed] = min(took_s, fastest.get(result.seed, took_s))
    return [dataclasses.replace(result, equal_s=fastest.get(result.seed)) for result in found]


def _lengths(cell: Cell) -> list[int]:
    """Of the candidates that ended by themselves or at the cap; none where there is no ledger."""
    try:
        records = LedgerReader(cell.paths.ledger)
        return [r.tokens for r in records if isinstance(r, CandidateEnded) and r.state in _ENDED]
    except (OSError, LedgerDamaged):
        return []


def _write_table(cells: Sequence[Cell], found: Sequence[CellResult], out: Path, form: TableForm, twin: str) -> str:
    """Write `table.md` and `table.csv`; return the Markdown."""
    text = to_markdown(found, _note(cells, found, form, twin), form)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text, "utf-8")
    (out / "table.csv").write_text(to_csv(found), "utf-8")
    return text


def _parts(readme: Path, form: TableForm) -> tuple[str, str]:
    """What stands before and behind the table in a file. Raises `ConfigError` when it has no place for one."""
    before, behind = form.marks
    try:
        head, begin, rest = readme.read_text("utf-8").partition(before)
    except OSError as error:
        raise ConfigError("--write-readme", str(readme), f"cannot be read ({error})", "Check the path.") from None
    _, end, tail = rest.partition(behind)
    if not begin or not end:
        raise ConfigError("--write-readme", str(readme), "has no place for the table", f"Add {before} and {behind}.")
    return head, tail


def _note(cells: Sequence[Cell], found: Sequence[CellResult], form: TableForm, twin: str) -> str:
    """How the figures came about: what a reader needs to judge them."""
    config = cells[0].config
    dates = sorted({str(cell.summary.get("bench", {}).get("date", "")) for cell in found if cell.summary} - {""})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else dt.datetime.now().astimezone().date()
    groups = config.run.steps * config.group.groups_per_step
    seeds = f"Seeds 0 to {cells[-1].seed}" if cells[-1].seed else "Seed 0"
    trains = f"Every {form.row} trains {groups} groups of {config.group.size} in {config.run.steps} steps. {seeds}, "
    if twin:
        profile = read_twin(twin).profile
        return (
            f"{trains}on virtual time, profile `{profile.name}` ({profile.source}). Means over seeds, in parentheses "
            f"smallest and largest. {form.legend}"
        )
    return (
        f"{trains}"
        f"engine `{config.generator.engine}`, cells of a call share an engine per seed, all roles in "
        "one process. "
        f"{_processor()}, {os.cpu_count()} cores, {when}. Means over seeds, in parentheses smallest and largest; "
        f"times vary with whatever else the machine does. {form.legend} Before and after: "
        f"{config.eval.prompts} held-out prompts x {config.eval.samples} samples."
    )


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _clear_unfinished(cells: Sequence[Cell], *, twin: bool) -> None:
    """Make room for what is to be run, and check that it can be. Raises `ConfigError`."""
    todo = [cell for cell in cells if not cell.done]
    for cell in todo:
        _clear(cell)
    for cell in {cell.preset: cell for cell in todo}.values():
        if twin:
            check_run_folder(cell.config, cell.paths)
            continue
        check(cell.config, cell.preset)


def _clear(cell: Cell) -> None:
    """Remove what an unfinished attempt left. Raises `ConfigError` for a folder that is not one."""
    root = cell.paths.root
    if not root.exists():
        return
    if not cell.paths.resolved_config.is_file():
        raise ConfigError("--out", str(root), "is there and is no run folder", "Choose another folder with --out.")
    shutil.rmtree(root)
