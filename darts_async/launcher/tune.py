"""`darts-async tune`: has a process search on a twin, and turns what it found into a table, a plot and a config.

Invariant: what was tried so far is on the disk (`trials.csv`) whenever the search stops, however it does.
"""

from __future__ import annotations

import asyncio
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from darts_async.bench.plan import make_cells
from darts_async.bench.variants import Variant
from darts_async.config import Config, load_config, to_toml
from darts_async.launcher.bench import run_cells
from darts_async.launcher.bench_view import BenchView
from darts_async.launcher.calibrate import compare
from darts_async.launcher.job_process import Deadline, Interrupts, JobProcess
from darts_async.launcher.job_view import JobView
from darts_async.launcher.tune_plot import plot
from darts_async.twin.figures import Figures, figures_of
from darts_async.twin.profile import read_twin
from darts_async.twin.search_space import Trial, finalists, front, knobs_for, overrides, recommend
from darts_async.twin.tune_events import TunePlan, decode

__all__ = ["tune"]

_TRIAL_S: Final = 600.0
"""Longest silence: one trial of a large profile."""
_FILE_COLUMNS: Final = 150
"""Width of the table where there is no terminal to fill."""
_COLUMNS: Final = ("tokens_per_s", "staleness", "wasted", "step_s", "generator_idle", "learner_idle")


def tune(source: str | None, own: Sequence[tuple[str, str]], plan: TunePlan, out: Path, *, validate: int) -> int:
    """Search, show the front and the recommendation, run the best `validate` settings live; return the exit status.

    source, own: where the config is from, and what the command line set in it. Raises `ConfigError` before anything
    starts.
    """
    config = load_config(source, own)
    knobs_for(config, plan.knobs, read_twin(plan.twin).profile)
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)
    with JobView(console) as view, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        trials, interrupted, reason = runner.run(_search(config, plan, out, view))
    _write_csv(trials, out / "trials.csv")
    best = recommend(trials, plan.max_staleness)
    if best is None:
        console.print(f"no setting was found: {reason or 'none of them is valid'}", markup=False, highlight=False)
        return 130 if interrupted else 1
    chosen, why = best
    console.print(_front_table(trials, chosen))
    plot(trials, chosen, out / "front.png")
    tuned = out / "tuned.toml"
    tuned.write_text(_tuned(source, own, chosen, why, plan), "utf-8")
    settings = ", ".join(f"{key} = {value}" for key, value in chosen.settings.items()) or "the config as it is"
    console.print(f"recommended: {settings}\n  because it is {why}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"config: {tuned} (darts-async up {tuned})", markup=False, highlight=False, soft_wrap=True)
    console.print(f"plot: {out / 'front.png'}, all trials: {out / 'trials.csv'}", markup=False, highlight=False)
    if validate and not interrupted:
        picks = [chosen, *finalists(trials, validate, plan.max_staleness), trials[0]]
        return _validate(source, own, plan, picks, validate, out)
    return 130 if interrupted else int(bool(reason))


def _validate(
    source: str | None, own: Sequence[tuple[str, str]], plan: TunePlan, picks: Sequence[Trial], most: int, out: Path
) -> int:
    """Run the first of these, and the config as it is, live on one engine; show predicted beside measured."""
    config = load_config(source, own)
    wanted = list({trial.number: trial for trial in [*picks[:most], picks[-1]]}.values())
    variants = [Variant(f"trial {trial.number}", tuple(overrides(config, trial.settings))) for trial in wanted]
    cells = make_cells(
        [source or "quickstart"],
        seeds=1,
        steps=plan.steps,
        eval_prompts=0,
        out=out / "live",
        overrides=own,
        variants=variants,
    )
    (out / "live").mkdir(exist_ok=True)
    console = Console()
    with BenchView(console) as view, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        whole = runner.run(run_cells(cells, out / "live", _TRIAL_S, view, ""))
    pairs = []
    for cell, trial in zip(cells, wanted, strict=True):
        if cell.done and trial.figures is not None and (summary := cell.summary()) is not None:
            lines = [msgspec.json.decode(line) for line in cell.paths.metrics.read_bytes().splitlines()]
            pairs.append((cell.preset, trial.figures, figures_of(summary, lines)))
    console.print(compare("predicted on the twin, and measured live", pairs))
    return (0 if len(pairs) == len(cells) else 1) if whole else 130


async def _search(config: Config, plan: TunePlan, out: Path, view: JobView) -> tuple[list[Trial], bool, str]:
    trials: dict[int, Trial] = {}
    num_told, are_finals = 0, False
    deadline = Deadline(_TRIAL_S, "a trial did not end")

    def take(line: bytes) -> Deadline:
        nonlocal num_told, are_finals
        trial = decode(line)
        if trial.runs > 1 and not are_finals:
            are_finals = True
            view.stage(f"running the fastest {plan.finalists} with {plan.further_seeds} more seeds each")
        trials[trial.number] = trial
        num_told += 1
        view.progressed(num_told, plan.trials + plan.finalists)
        return deadline

    log = out / "tune.log"
    with tempfile.TemporaryDirectory(prefix="darts-tune-") as folder, Interrupts().caught() as interrupts:
        path = Path(folder) / "config.toml"
        path.write_text(to_toml(config), "utf-8")
        view.stage(f"searching {', '.join(plan.knobs)} on {plan.twin}: at most {plan.trials} trials")
        process = JobProcess("actors.tune", config, log, interrupts, view.note)
        end = await process.run(msgspec.json.encode(msgspec.structs.replace(plan, config=str(path))), deadline, take)
        return list(trials.values()), interrupts.first.is_set(), "" if end.status == 0 else end.reason


def _front_table(trials: Sequence[Trial], chosen: Trial) -> Table:
    best = front(trials)
    table = Table(title=f"the best of {len(trials)} trials, and the config as it is")
    table.add_column("")
    table.add_column("settings", overflow="fold", ratio=1)
    for name in ("tokens/s", "staleness", "wasted", "step s", "gen. idle", "learner idle"):
        table.add_column(name, justify="right")
    baseline = trials[0] if trials else chosen
    for trial in [*([baseline] if baseline not in best else []), *best]:
        mark = "->" if trial is chosen else ("as is" if trial is baseline else "")
        settings = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in trial.settings.items())
        table.add_row(mark, settings or "-", *(_cells(trial.figures) if trial.figures else ["", trial.reason[:40]]))
    return table


def _cells(figures: Figures) -> list[str]:
    return [
        f"{figures.tokens_per_s:,.0f}",
        f"{figures.staleness:.2f}",
        f"{figures.wasted:.0%}",
        f"{figures.step_s:.2f}",
        f"{figures.generator_idle:.0%}",
        f"{figures.learner_idle:.0%}",
    ]


def _write_csv(trials: Sequence[Trial], path: Path) -> None:
    keys = sorted({key for trial in trials for key in trial.settings})
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["trial", *keys, "runs", *_COLUMNS, "reason"])
        for trial in trials:
            figures = ["" if trial.figures is None else getattr(trial.figures, name) for name in _COLUMNS]
            settings = [trial.settings.get(key, "") for key in keys]
            writer.writerow([trial.number, *settings, trial.runs, *figures, trial.reason])


def _tuned(source: str | None, own: Sequence[tuple[str, str]], chosen: Trial, why: str, plan: TunePlan) -> str:
    """The recommended config in full, ready to run."""
    config = load_config(source, [*own, *overrides(load_config(source, own), chosen.settings)])
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": ""})})
    return f"# Found by `darts-async tune` on profile {plan.twin}: {why}.\n\n{to_toml(config)}"
