"""From run folders to `ReportData`. Only reads; the ledger and the metrics once each, in bounded memory.

Invariant: whatever a run folder lacks or holds that cannot be read becomes a sentence in `missing`, never an exception;
only a folder that is no run folder at all is a user's mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError, LedgerDamaged
from darts_async.report.config_rows import config_rows, read_config
from darts_async.report.data import HeldOut, ReportData, RunData, RunState
from darts_async.report.ledger_story import LedgerReading, LedgerStory
from darts_async.report.step_lines import StepSeries, read_steps
from darts_async.report.summary import Score, Summary, read_summary
from darts_async.report.timeline import choose_stretch, from_metrics
from darts_async.report.trace_stretch import read_trace
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.runtime.run_starts import read_starts

__all__ = ["MAX_RUNS", "gather", "gather_run"]

MAX_RUNS: Final = 8
"""As many as colours and marks tell apart."""
TRACE: Final = "trace.json"
_OUTCOMES: Final[tuple[RunState, ...]] = ("done", "failed", "interrupted")
T = TypeVar("T")


def gather(folders: Sequence[Path]) -> ReportData:
    """Read all of them. Raises `ConfigError` for what is no run folder, and for too many."""
    if len(folders) > MAX_RUNS:
        fix = "Name fewer; `darts-async bench` makes a table of many."
        raise ConfigError("RUN", f"{len(folders)} runs", f"at most {MAX_RUNS} can be told apart in a chart", fix)
    for folder in folders:
        _check_is_run(folder)
    runs = [gather_run(folder) for folder in folders]
    if len(runs) > 1:
        for run, letter in zip(runs, "ABCDEFGH", strict=False):
            run.letter = letter
    return ReportData(runs, config_rows([run.config for run in runs]))


def gather_run(folder: Path) -> RunData:
    """Read one run folder."""
    paths, run = RunPaths(folder), RunData(folder, folder.name)
    missing = run.missing
    live_config = paths.live_config.is_file()
    run.config = _read(read_config, paths.live_config if live_config else paths.resolved_config, "config", missing)
    run.summary = _read(read_summary, paths.summary, "summary", None)
    run.starts = read_starts(paths.starts)
    run.series = _read(read_steps, paths.metrics, "metrics", missing) or StepSeries()
    run.story, is_live = _read_ledger(paths.ledger, missing)
    run.state = _state(run, is_live=is_live)
    if run.summary is None and run.state != "running":
        missing.append("There is no summary.json that can be read: the run did not get to its end.")
    _read_timeline(run)
    run.held_out = _held_out(run.story, run.summary)
    _note_gaps(run)
    return run


def _check_is_run(folder: Path) -> None:
    paths = RunPaths(folder)
    try:
        if any(path.exists() for path in (paths.resolved_config, paths.metrics, paths.ledger, paths.summary)):
            return
    except OSError as error:
        raise ConfigError("RUN", str(folder), f"cannot be read ({error.strerror})", "Check its rights.") from None
    rule = (
        "is no run folder: it has no config.resolved.toml, no metrics.jsonl, no ledger"
        if folder.is_dir()
        else ("no such folder")
    )
    raise ConfigError("RUN", str(folder), rule, "Name a run folder: runs/NAME.")


def _read(read: Callable[[Path], T], path: Path, what: str, missing: list[str] | None) -> T | None:
    """Read a file, or say what is wrong with it; None: its absence needs no word here."""
    try:
        return read(path)
    except FileNotFoundError:
        if missing is not None:
            missing.append(f"There is no {path.name}: the run ended, or was stopped, before it wrote its {what}.")
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        if missing is not None:
            missing.append(f"{path.name} cannot be read: {error}.")
    return None


def _read_ledger(folder: Path, missing: list[str]) -> tuple[LedgerStory | None, bool]:
    """Return the story, and whether somebody writes it now."""
    if not folder.is_dir():
        missing.append("There is no ledger: what became of candidates and tokens, and lengths one by one, are unknown.")
        return None, False
    reading, damage, is_live = LedgerReading(), "", False
    try:
        reader = LedgerReader(folder)
        is_live = reader.live
        for record in reader:
            reading.feed(record)
    except (LedgerDamaged, OSError) as error:
        damage = str(error)
    story = reading.finish()
    story.damage = damage
    if damage:
        missing.append(f"The ledger was read only as far as it is good. {damage}.")
    if not story.num_records:
        if not damage:
            missing.append("The ledger is empty: no group was planned.")
        return None, is_live
    return story, is_live


def _state(run: RunData, *, is_live: bool) -> RunState:
    if is_live:
        return "running"
    said = run.summary.status if run.summary is not None else run.starts[-1].status if run.starts else ""
    for status in _OUTCOMES:
        if said == status:
            return status
    began = run.series.num_steps or (run.story is not None and run.story.num_groups)
    return "cut off" if began else "not begun"


def _read_timeline(run: RunData) -> None:
    stretch = choose_stretch(run.series)
    trace = run.folder / TRACE
    problem = ""
    if trace.is_file():
        try:
            run.timeline = read_trace(trace, stretch)
        except OSError as error:
            problem = f"{TRACE} cannot be read: {error.strerror}"
        problem = problem or run.timeline.problem
    if not run.timeline.spans:
        run.timeline = from_metrics(run.series, stretch)
    if problem:
        run.missing.append(f"{problem}.")


def _held_out(story: LedgerStory | None, summary: Summary | None) -> list[HeldOut]:
    """By version; of a label and version that was scored again, the last word."""
    found: dict[tuple[str, int], HeldOut] = {}
    if summary is not None:
        ends: Iterable[tuple[str, Score | None]] = (("before", summary.eval.before), ("after", summary.eval.after))
        for label, score in (*ends, *(("during", score) for score in summary.eval.during)):
            if score is not None and score.reward is not None and score.response_length is not None:
                version = int(score.policy_version or 0)
                found[label, version] = HeldOut(label, version, score.reward, score.response_length)
    if story is not None:
        for scored in story.evaluations:
            entry = HeldOut(scored.label, scored.version, scored.reward, scored.response_length)
            found[scored.label, scored.version] = entry
    order = {"before": 0, "during": 1, "after": 2}
    return sorted(found.values(), key=lambda score: (score.version, order.get(score.label, 1)))


def _note_gaps(run: RunData) -> None:
    series, missing = run.series, run.missing
    if not series.num_steps:
        missing.append("No learner step was completed, so there is nothing to show over steps or time.")
    if series.num_bad_lines:
        missing.append(f"{series.num_bad_lines} lines of metrics.jsonl are no steps and were left out.")
    by_ledger = run.story.version if run.story is not None else 0
    if run.state != "running" and series.num_steps and by_ledger > series.num_steps:
        missing.append(f"The ledger has {by_ledger} steps, metrics.jsonl {series.num_steps} of them.")
