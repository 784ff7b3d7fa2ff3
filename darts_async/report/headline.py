"""The figures at the top of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from darts_async.report.charts.chart import shown
from darts_async.report.charts.tokens import tokens_by_state
from darts_async.report.data import ReportData, RunData

__all__ = ["Row", "duration", "headline", "num_restarts", "useful_share"]


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of every run."""

    label: str
    values: tuple[str, ...]
    hint: str = ""


def headline(data: ReportData) -> list[Row]:
    """One row a figure; a figure that no run has is left out."""
    rows = [
        ("Status", "", [_status(run) for run in data.runs]),
        ("Steps", "", [shown(run.num_steps) for run in data.runs]),
        ("Wall time", "", [duration(run.wall_s) for run in data.runs]),
        ("Reward, held out", "before → after training", [_held_out(run, "reward") for run in data.runs]),
        ("Length, held out", "tokens, before → after", [_held_out(run, "response_length") for run in data.runs]),
        ("Reward, in training", "first → last steps", [_ends(run, "reward") for run in data.runs]),
        ("Length, in training", "tokens, first → last steps", [_ends(run, "response_length") for run in data.runs]),
        ("Tokens trained on", "of all generated", [_useful(run) for run in data.runs]),
        ("Trained tokens/s", "from the first step on", [_rate(run) for run in data.runs]),
        ("Saved by cancels", "tokens, estimate", [_saved(run) for run in data.runs]),
        ("Idle: generators / learner", "share of time", [_idle(run) for run in data.runs]),
        ("Staleness", "mean / max", [_staleness(run) for run in data.runs]),
        ("Cancel latency", "p50 / p99", [_latency(run, "cancel_latency_ms") for run in data.runs]),
        ("Weight update", "p50 / p99", [_latency(run, "weight_update_ms") for run in data.runs]),
        ("Restarts / resumes", "", [_restarts(run) for run in data.runs]),
        ("Warnings", "", [str(len(run.summary.warnings)) if run.summary else "" for run in data.runs]),
    ]
    return [Row(label, tuple(value or "—" for value in values), hint) for label, hint, values in rows if any(values)]


def duration(seconds: float) -> str:
    """Time as people say it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _status(run: RunData) -> str:
    return {"cut off": "cut off, not ended in order", "running": "running now"}.get(run.state, run.state)


def _held_out(run: RunData, name: str) -> str:
    values = [getattr(score, name) for score in run.held_out]
    return _arrow(values)


def _ends(run: RunData, name: str) -> str:
    if run.summary is not None:
        ends = getattr(run.summary, name)
        if ends.first is not None and ends.last is not None:
            return _arrow([ends.first, ends.last])
    column = run.series.column({"reward": "reward/mean", "response_length": "response_length/generated"}[name])
    return "" if column is None else _arrow([value for value in column.tolist() if math.isfinite(value)])


def _arrow(values: Sequence[float]) -> str:
    if not values:
        return ""
    return shown(values[0]) if len(values) == 1 else f"{shown(values[0])} → {shown(values[-1])}"


def useful_share(run: RunData) -> float | None:
    """Trained tokens over generated ones."""
    tokens = tokens_by_state(run)
    total = sum(tokens.values())
    return tokens["trained"] / total if total else None


def _useful(run: RunData) -> str:
    share = useful_share(run)
    return "" if share is None else f"{100 * share:.1f}% of {sum(tokens_by_state(run).values()):,.0f}"


def _rate(run: RunData) -> str:
    trained = tokens_by_state(run)["trained"]
    seconds = float(run.series.wall_s[-1]) - run.series.began_s if run.series.num_steps else 0.0
    return shown(trained / seconds) if trained and seconds > 0 else ""


def _saved(run: RunData) -> str:
    saved = run.summary.tokens_saved_estimate if run.summary else run.series.last.get("cancel/tokens_saved")
    return "" if saved is None else f"{saved:,.0f}"


def _idle(run: RunData) -> str:
    if run.summary is None or (run.summary.idle_ratio.generator is None and run.summary.idle_ratio.learner is None):
        return ""
    idle = run.summary.idle_ratio
    return " / ".join("—" if share is None else f"{100 * share:.0f}%" for share in (idle.generator, idle.learner))


def _staleness(run: RunData) -> str:
    if run.summary is None or run.summary.staleness.mean is None:
        return ""
    return f"{shown(run.summary.staleness.mean)} / {shown(run.summary.staleness.max)}"


def _latency(run: RunData, name: str) -> str:
    if run.summary is None:
        return ""
    found = getattr(run.summary, name)
    return "" if found.p50 is None else f"{shown(found.p50)} / {shown(found.p99)} ms"


def _restarts(run: RunData) -> str:
    restarts, resumes = num_restarts(run), max(len(run.starts) - 1, 0)
    return f"{restarts} / {resumes}"


def num_restarts(run: RunData) -> int:
    """Starts of roles that were lost, over all starts of the run."""
    return sum(sum(start.restarts.values()) for start in run.starts)
