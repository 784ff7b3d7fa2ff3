"""Metrics over steps or time: what most charts are. A metric that no run reported makes no line."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from darts_async.report.charts.chart import (
    Chart,
    Figure,
    NoChart,
    figure,
    height_of,
    line,
    numbers,
    shown,
    style,
    title_of,
)
from darts_async.report.data import ReportData, RunData

__all__ = ["over"]

Along = Literal["step", "wall_s"]
_AXES = {"step": "learner step", "wall_s": "wall-clock, s"}


def over(
    data: ReportData,
    metrics: dict[str, str],
    *,
    along: Along = "step",
    chart_id: str,
    title: str,
    y: str,
    reading: str,
    wide: bool = False,
    extra: list[Figure] | None = None,
    **layout: Any,
) -> list[Chart] | NoChart:
    """One line a run and metric (name to its label), or why there is none."""
    traces, words = [], []
    for run in data.runs:
        xs = numbers(run.series.step if along == "step" else run.series.wall_s)
        for index, (metric, label) in enumerate(metrics.items()):
            column = run.series.column(metric)
            if column is None or not np.isfinite(column).any():
                continue
            traces.append(line(xs, numbers(column), style(data, run, label, index)))
            finite = column[np.isfinite(column)]
            words.append(f"{title_of(run)}, {label}: from {shown(finite[0])} to {shown(finite[-1])}.")
    if not traces:
        wanted = ", ".join(metrics)
        return NoChart(title, f"no step has reported {wanted}.")
    if note := thinned(data.runs):
        reading = f"{reading} {note}"
    drawn = figure([*traces, *(extra or [])], _AXES[along], y, **layout)
    return [
        Chart(chart_id, title, reading, f"{y} over {_AXES[along]}. " + " ".join(words), drawn, height_of(drawn), wide)
    ]


def thinned(runs: list[RunData]) -> str:
    """A sentence when points are not steps."""
    most = max((run.series.steps_per_point for run in runs), default=1)
    return f"Each point is the mean of up to {most} steps." if most > 1 else ""
