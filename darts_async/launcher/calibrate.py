"""`darts-async tune --calibrate RUN...`: a profile from real runs, and how well it predicts those very runs.

The error shown is of the fit: on the runs that it was made from. What it is worth on other settings, `--validate` and
`darts-async bench` say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from darts_async.bench.plan import Cell
from darts_async.launcher.bench_process import SeedProcess
from darts_async.launcher.bench_view import BenchView
from darts_async.launcher.job_process import Interrupts
from darts_async.launcher.preflight import make_run_folder
from darts_async.twin.calibration import RunData, calibrate, read_run
from darts_async.twin.figures import Figures, figures_of
from darts_async.twin.profile import write_twin

__all__ = ["calibrate_runs", "compare"]

_SHOWN: Final = (
    ("tokens_per_s", "trained tokens/s", "{:,.0f}"),
    ("step_s", "step s", "{:.2f}"),
    ("generator_idle", "generator idle", "{:.0%}"),
    ("learner_idle", "learner idle", "{:.0%}"),
    ("staleness", "staleness", "{:.2f}"),
    ("cancelled", "cancelled", "{:.0%}"),
    ("wasted", "wasted", "{:.0%}"),
)
_RELATIVE: Final = ("tokens_per_s", "step_s")


def calibrate_runs(folders: Sequence[Path], name: str, out: Path) -> int:
    """Write a profile and show its error; return the exit status. Raises `ConfigError` for runs that do not serve."""
    console = Console()
    runs = [read_run(folder) for folder in folders]
    found = calibrate(runs, name)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.toml"
    write_twin(found.twin, path)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    pairs = predict([run.config.run.name for run in runs], runs, path, out)
    console.print(compare("predicted and measured, on the runs that it was made from", pairs))
    (out / f"{name}.errors.json").write_bytes(msgspec.json.encode(pairs))
    console.print(f"profile: {path} (darts-async tune --twin {path})", markup=False, highlight=False, soft_wrap=True)
    return 0 if len(pairs) == len(runs) else 1


def predict(
    labels: Sequence[str], runs: Sequence[RunData], profile: Path, out: Path
) -> list[tuple[str, Figures, Figures]]:
    """Run each run's config on the twin; return (label, predicted, measured) of those that ended."""
    cells = []
    for number, (label, run) in enumerate(zip(labels, runs, strict=True)):
        name = f"twin-{number}-{label}"
        own = run.config.run.model_copy(update={"dir": str(out), "name": name})
        cells.append(Cell(label, own.seed, run.config.model_copy(update={"run": own})))
    with BenchView(Console()) as view, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(cells, profile, out, view))
    pairs = []
    for cell, run in zip(cells, runs, strict=True):
        if (summary := cell.summary()) is not None and cell.done:
            lines = [json.loads(line) for line in cell.paths.metrics.read_text("utf-8").splitlines()]
            pairs.append((cell.preset, figures_of(summary, lines), figures_of(run.summary, run.steps)))
    return pairs


async def _run(cells: Sequence[Cell], profile: Path, out: Path, view: BenchView) -> None:
    todo = [cell for cell in cells if not cell.done]
    view.begin(cells, todo)
    for cell in todo:
        make_run_folder(cell.config)
    with Interrupts().caught() as interrupts:
        if todo:
            await SeedProcess(todo, out / "twin.log", 600.0, view, interrupts, str(profile)).run()


def compare(title: str, pairs: Sequence[tuple[str, Figures, Figures]]) -> Table:
    """Predicted beside measured, and the error: relative for rates and times, in points for shares."""
    table = Table(title=title)
    for name in ("run", "figure", "predicted", "measured", "error"):
        table.add_column(name, justify="left" if name in {"run", "figure"} else "right")
    for label, predicted, measured in pairs:
        for key, text, form in _SHOWN:
            mine, real = getattr(predicted, key), getattr(measured, key)
            error = f"{mine / real - 1:+.0%}" if key in _RELATIVE and real else f"{mine - real:+.2f}"
            table.add_row(label, text, form.format(mine), form.format(real), error)
            label = ""  # noqa: PLW2901 - once a run
    return table
