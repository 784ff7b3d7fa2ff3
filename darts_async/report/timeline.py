"""Who did what when, in a stretch of the run short enough to be seen, and the stretch itself as far as the metrics
tell it (`trace_stretch` has it from the trace)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from darts_async.report.group_ages import AgePoint
from darts_async.report.step_lines import StepSeries

__all__ = ["Span", "Timeline", "choose_stretch", "from_metrics", "overlap", "role_order"]

STEPS_SHOWN: Final = 8
"""Learner steps in a stretch."""


class Span(NamedTuple):
    """Something that took time, or (`duration_s` 0) happened at a moment."""

    role: str
    category: str
    start_s: float
    duration_s: float


@dataclass(slots=True)
class Timeline:
    """A stretch of a run."""

    source: str = ""
    """`trace` or `metrics`; empty: there is nothing to show."""
    start_s: float = 0.0
    stop_s: float = 0.0
    spans: list[Span] = field(default_factory=list)
    """By start."""
    num_left_out: int = 0
    """Spans that were too many, anywhere in the stretch."""
    roles: list[str] = field(default_factory=list)
    ages: list[AgePoint] = field(default_factory=list)
    """Of the whole run, not of the stretch alone; from a trace."""
    problem: str = ""
    """Why the trace was not used."""


def choose_stretch(series: StepSeries, steps: int = STEPS_SHOWN) -> tuple[float, float] | None:
    """Seconds from and to: so many steps of the run's middle half, of about the usual length: not those with a pause
    in them (the run was cut off and taken up again, a role was lost). None without a step."""
    if not series.num_steps:
        return None
    ends = np.concatenate(([min(series.began_s, series.wall_s[0])], series.wall_s))
    points = min(max(1, round(steps / series.steps_per_point)), len(series.wall_s))
    middle = (len(series.wall_s) - points) // 2
    half = len(series.wall_s) // 4
    firsts = range(max(0, middle - half), min(middle + half, len(series.wall_s) - points) + 1)
    seconds = {first: round(float(ends[first + points] - ends[first]), 6) for first in firsts}
    typical = points * float(np.median(np.diff(ends)))
    first = min(firsts, key=lambda one: (abs(seconds[one] - typical), abs(one - middle)))
    start, stop = float(ends[first]), float(ends[first + points])
    if series.steps_per_point > steps:
        stop = start + (stop - start) * steps / series.steps_per_point
    return (start, stop) if stop > start else None


def from_metrics(series: StepSeries, stretch: tuple[float, float] | None) -> Timeline:
    """The learner's steps, divided into their parts; how busy generators were; cancels at the end of each step."""
    if stretch is None or series.steps_per_point > 1:
        return Timeline()
    start_s, stop_s = stretch
    timeline = Timeline("metrics", start_s, stop_s, roles=["generators", "learner"])

    def value(name: str, index: int) -> float:
        column = series.column(name)
        found = 0.0 if column is None else float(column[index])
        return found if math.isfinite(found) else 0.0

    for index, end in enumerate(series.wall_s.tolist()):
        begin = end - value("learner/step_s", index)
        if not start_s < end <= stop_s:
            continue
        wait_s, compute_s = value("learner/wait_s", index), value("learner/forward_backward_s", index)
        rest_s = max(0.0, end - begin - wait_s - compute_s)
        at = begin
        for category, seconds in (("waiting", wait_s), ("forward_backward", compute_s), ("optimiser", rest_s)):
            if seconds > 0:
                timeline.spans.append(Span("learner", category, at, seconds))
            at += seconds
        idle = series.column("generator/idle_ratio")
        if idle is not None and math.isfinite(idle[index]):
            busy_s = (end - begin) * max(0.0, 1.0 - float(idle[index]))
            timeline.spans.append(Span("generators", "decode", begin, busy_s))
        if value("cancel/rollouts_in_step", index) > 0:
            timeline.spans.append(Span("generators", "cancel", end, 0.0))
    return timeline if timeline.spans else Timeline()


def role_order(name: str) -> tuple[int, str]:
    """Roles in the order in which work passes through them."""
    order = ("allocator", "generator", "selector", "learner")
    return next((number for number, role in enumerate(order) if name.startswith(role)), len(order)), name


def overlap(timeline: Timeline) -> tuple[float, float, float] | None:
    """Shares of the stretch in which some generator decoded, the learner computed, and both at once; None: unknown."""
    decoding = _union(timeline, {"decode", "prefill"})
    computing = _union(timeline, {"forward_backward", "optimiser"})
    whole = timeline.stop_s - timeline.start_s
    if timeline.source != "trace" or timeline.num_left_out or not (decoding and computing) or whole <= 0:
        return None
    both = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in decoding for b in computing)
    first, second = (sum(stop - start for start, stop in busy) for busy in (decoding, computing))
    return first / whole, second / whole, both / whole


def _union(timeline: Timeline, categories: set[str]) -> list[tuple[float, float]]:
    """When at least one span of these lasted, within the stretch; ascending and apart."""
    found: list[tuple[float, float]] = []
    for span in timeline.spans:
        start = max(span.start_s, timeline.start_s)
        stop = min(span.start_s + span.duration_s, timeline.stop_s)
        if span.category not in categories or stop <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found
