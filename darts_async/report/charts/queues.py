"""What waits between the roles, and for how long."""

from __future__ import annotations

import re

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
from darts_async.report.charts.series import over
from darts_async.report.data import ReportData

_DEPTH = re.compile(r"queue/([^/]{1,60})/depth")
_AGE = re.compile(r"queue/([^/]{1,60})/age_p99_s")
_AGE_READING = (
    "Time in a queue makes tokens stale: if it grows, lower queues.ready_groups or queues.in_flight_groups. A long "
    "time until the last pick is a long tail: cancel earlier (rule shortest, survivor, or allocation.prune_fraction)."
)
MAX_QUEUES = 6
_BOUNDED = ("in_flight_groups", "ready_groups")
"""Those with a bound in the config; of several runs these alone are shown."""


def queue_depth(data: ReportData) -> list[Chart] | NoChart:
    """How much waits."""
    names = _names(data, _DEPTH)
    if not names:
        return NoChart("Queue depth", "no step has reported the depth of a queue.")
    return over(
        data,
        {f"queue/{name}/depth": name.replace("_", " ") for name in names},
        chart_id="queue-depth",
        title="Queue depth",
        y="groups, candidates",
        reading="A queue that is always full feeds a role that is too slow; one that is always empty comes behind the "
        "slow one. Ready groups near their bound: the learner limits. Rewards piling up: raise reward.workers. "
        "Trajectories piling up: the selector's process is out of time." + _bounds_words(data),
        wide=True,
        extra=_bounds(data),
    )


def queue_age(data: ReportData) -> list[Chart] | NoChart:
    """How long it waits: from the trace, else from metrics."""
    if any(run.timeline.ages for run in data.runs):
        return [_traced_ages(data)]
    names = _names(data, _AGE)
    if names:
        metrics = {f"queue/{name}/age_p99_s": name.replace("_", " ") for name in names}
        what = "99th percentile of the time that what leaves a queue has spent in it."
    else:
        metrics = {
            "learner/wait_s": "learner waits for groups",
            "selection/last_pick_wait_s": "group waits for its last pick",
        }
        what = "There is no trace, so how long groups wait in a queue is not known; these are the waits that are."
    return over(
        data,
        metrics,
        chart_id="queue-age",
        title="Queue age" if names else "Waits",
        y="s",
        reading=f"{what} {_AGE_READING}",
        wide=True,
    )


def _traced_ages(data: ReportData) -> Chart:
    traces, words = [], []
    for run in data.runs:
        points = run.timeline.ages
        if not points:
            continue
        xs = numbers(point.at_s for point in points)
        for index, (label, values) in enumerate(
            (
                ("in flight, mean", [point.in_flight for point in points]),
                ("ready, mean", [point.ready for point in points]),
                ("ready, longest", [point.ready_max for point in points]),
            )
        ):
            traces.append(line(xs, numbers(values), style(data, run, label, index)))
            words.append(f"{title_of(run)}, {label}: {shown(values[0])} to {shown(values[-1])} s.")
    drawn = figure(traces, "wall-clock, s", "s")
    reading = (
        "In flight: from a group's dispatch until its last pick is known. Ready: from then until the learner takes it "
        f"up. {_AGE_READING}"
    )
    alt = "How long groups waited. " + " ".join(words)
    return Chart("queue-age", "Queue age", reading, alt, drawn, height_of(drawn), wide=True)


def _names(data: ReportData, pattern: re.Pattern[str]) -> list[str]:
    found = {match[1] for run in data.runs for name in run.series.columns if (match := pattern.fullmatch(name))}
    first = (*_BOUNDED, "rewards", "trajectories")
    return sorted(found, key=lambda name: (first.index(name) if name in first else len(first), name))[
        : MAX_QUEUES if len(data.runs) == 1 else len(_BOUNDED)
    ]


def _bound(data: ReportData) -> dict[str, float]:
    """The bounds of the one run, or those that all runs share."""
    bounds = {}
    for name in _BOUNDED:
        values = {None if run.config is None else run.config.get(f"queues.{name}") for run in data.runs}
        value = values.pop() if len(values) == 1 else None
        if isinstance(value, int) and value > 0:
            bounds[name] = float(value)
    return bounds


def _bounds(data: ReportData) -> list[Figure]:
    stop = max((float(run.series.step[-1]) for run in data.runs if run.series.num_steps), default=1.0)
    start = min((float(run.series.step[0]) for run in data.runs if run.series.num_steps), default=1.0)
    by_value: dict[float, list[str]] = {}
    for name, value in _bound(data).items():
        by_value.setdefault(value, []).append(name.replace("_", " "))
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [start, stop],
            "y": [value, value],
            "name": f"bound of {' and '.join(names)}",
            "line": {"color": "@muted", "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
        }
        for value, names in by_value.items()
    ]


def _bounds_words(data: ReportData) -> str:
    return " Dotted: the bound in the config." if _bound(data) else ""
