"""Distributions of lengths at the two ends of the run: of candidates, of prompts, and within prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from darts_async.report.charts.chart import (
    Chart,
    Figure,
    NoChart,
    Style,
    figure,
    height_of,
    line,
    numbers,
    shown,
    style,
    title_of,
)
from darts_async.report.data import ReportData, RunData
from darts_async.report.histogram import Histogram
from darts_async.report.ledger_story import LedgerStory, LengthProfile

BINS = 40
SHOWN_SHARE = 0.985
"""Of the entries: the few longest would squeeze all others together."""
_SINCE = "Dashed: the first fifth of the versions; solid: the last."


def generated_lengths(data: ReportData) -> list[Chart] | NoChart:
    """Lengths of everything that finished."""
    return _distribution(
        data,
        "lengths-generated",
        "Lengths of all finished responses",
        lambda profile: profile.generated,
        "response length, tokens",
        f"{_SINCE} A curve that moves to the left means shorter responses. A heap at the right end is responses cut at "
        "model.max_response_tokens: raise it, or shape with learner.overlong_buffer_tokens. Cancelled candidates are "
        "not here: they have no length of their own.",
    )


def kept_lengths(data: ReportData) -> list[Chart] | NoChart:
    """Lengths of what was trained on."""
    return _distribution(
        data,
        "lengths-kept",
        "Lengths of the responses trained on",
        lambda profile: profile.kept,
        "response length, tokens",
        f"{_SINCE} Compare it with the chart before: what lies to the right there and is missing here is what "
        "selection keeps from the learner. If the long end is gone and hard prompts need it, raise "
        "group.keep_longest.",
        scale=lambda profile: profile.generated,
    )


def between_prompts(data: ReportData) -> list[Chart] | NoChart:
    """How prompts differ."""
    return _distribution(
        data,
        "lengths-between",
        "Between prompts: mean length of each group",
        lambda profile: profile.group_mean,
        "mean length of a group, tokens",
        f"{_SINCE} A wide curve means that prompts differ: slow ones then hold up a step, and more groups in flight "
        "(queues.in_flight_groups) or a staleness bound above 0 hide them.",
    )


def within_prompts(data: ReportData) -> list[Chart] | NoChart:
    """How the answers to one prompt differ."""
    return _distribution(
        data,
        "lengths-within",
        "Within a prompt: spread of each group's lengths",
        lambda profile: profile.group_spread,
        "standard deviation within a group, tokens",
        f"{_SINCE} The wider the spread, the more there is to gain from extra candidates: allocation.budget above "
        "group.size pays here and is wasted where the curve stands at 0. A cancelled candidate counts with the length "
        "it has for certain, so the truth lies a little to the right.",
    )


class _End(NamedTuple):
    """A stretch of a run."""

    label: str
    is_first: bool
    profile: LengthProfile


def _distribution(
    data: ReportData,
    chart_id: str,
    title: str,
    pick: Callable[[LengthProfile], Histogram],
    x: str,
    reading: str,
    *,
    scale: Callable[[LengthProfile], Histogram] | None = None,
) -> list[Chart] | NoChart:
    found = [(run, end, pick(end.profile)) for run in data.runs for end in _ends(run.story)]
    found = [(run, end, histogram) for run, end, histogram in found if histogram.count]
    if not found:
        return NoChart(title, "the ledger has no group that ended.")
    edges = _edges([(scale or pick)(end.profile) for _, end, _ in found])
    alone = len(data.runs) == 1
    traces, words = [], []
    for run, end, histogram in found:
        shares = [100 * share for share in histogram.shares(edges)]
        traces.append((_stair if alone else _rise)(edges, shares, _look(data, run, end)))
        words.append(
            f"{title_of(run)}, {end.label}: {histogram.count:,}, mean {shown(histogram.mean)}, median "
            f"{shown(histogram.quantile(0.5))}, 95th percentile {shown(histogram.quantile(0.95))}."
        )
    if alone:
        drawn = figure(traces, x, "share, %")
        reading += " The last bin holds all that is longer."
    else:
        drawn = figure(traces, x, "share up to here, %")
        reading = f"How large a share is no longer than that: a line further up and left is of shorter ones. {reading}"
    return [Chart(chart_id, title, reading, f"Distribution of {x}. " + " ".join(words), drawn, height_of(drawn))]


def _ends(story: LedgerStory | None) -> list[_End]:
    if story is None:
        return []
    if not story.ends_apart:
        return [_End("whole run", is_first=False, profile=story.last)]
    until = story.first_until - 1
    first = _End(f"versions 0 to {until:,}" if until else "version 0", is_first=True, profile=story.first)
    return [first, _End(f"from version {story.last_from:,}", is_first=False, profile=story.last)]


def _look(data: ReportData, run: RunData, end: _End) -> Style:
    """The beginning dashed, the end solid; of several runs each has its colour and its mark."""
    dash = "dash" if end.is_first else "solid"
    if len(data.runs) == 1:
        return Style(end.label, "@s7" if end.is_first else "@s0", dash, "circle", end.label)
    return replace(style(data, run, end.label, 0), dash=dash)


def _stair(edges: list[float], shares: list[float], look: Style) -> Figure:
    """A histogram; that of the end is filled."""
    centres = numbers((low + high) / 2 for low, high in pairwise(edges))
    shape = {"color": look.colour, "dash": look.dash, "width": 2, "shape": "hvh"}
    fill = {"fill": "tozeroy", "fillcolor": f"{look.colour}-soft"} if look.dash == "solid" else {}
    return line(centres, numbers(shares), look, mode="lines", line=shape, **fill)


def _rise(edges: list[float], shares: list[float], look: Style) -> Figure:
    """A cumulative distribution: many of them can be told apart."""
    return line(numbers(edges[:-1]), numbers([0.0, *accumulate(shares[:-1])]), look)


def _edges(histograms: list[Histogram]) -> list[float]:
    """Bins of equal, whole width from 0 to where nearly all entries end; the last one takes what lies beyond."""
    longest = max((histogram.quantile(SHOWN_SHARE) for histogram in histograms if histogram.count), default=0.0)
    width = max(1, -(-(int(longest) + 1) // BINS))
    return [float(width * index) for index in range(-(-(int(longest) + 1) // width) + 1)]
