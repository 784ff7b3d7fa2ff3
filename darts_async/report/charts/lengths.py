"""Distributions of lengths at the two ends of the run: of candidates, of prompts, and within prompts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

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


def _distribution(
    data: ReportData,
    chart_id: str,
    title: str,
    pick: Callable[[LengthProfile], Histogram],
    x: str,
    reading: str,
) -> list[Chart] | NoChart:
    found: list[tuple[RunData, str, Histogram]] = []
    for run in data.runs:
        found += [(run, end, pick(profile)) for end, profile in _ends(run.story) if pick(profile).count]
    if not found:
        return NoChart(title, "the ledger has no group that ended.")
    edges = _edges([histogram for _, _, histogram in found])
    centres = numbers((low + high) / 2 for low, high in pairwise(edges))
    traces, words = [], []
    for run, end, histogram in found:
        shares = numbers(100 * share for share in histogram.shares(edges))
        look = _look(data, run, end)
        traces.append(line(centres, shares, look, **_steps(look, filled=not run.letter and not _is_first(end))))
        words.append(
            f"{title_of(run)}, {end}: {histogram.count:,}, mean {shown(histogram.mean)}, median "
            f"{shown(histogram.quantile(0.5))}, 95th percentile {shown(histogram.quantile(0.95))}."
        )
    drawn = figure(traces, x, "share, %")
    return [Chart(chart_id, title, reading, f"Distribution of {x}. " + " ".join(words), drawn, height_of(drawn))]


def _ends(story: LedgerStory | None) -> list[tuple[str, LengthProfile]]:
    if story is None:
        return []
    if not story.ends_apart:
        return [("whole run", story.last)]
    first, last = story.first_until, story.last_from
    return [
        (f"versions 0 to {first - 1}" if first > 1 else "version 0", story.first),
        (f"from version {last}", story.last),
    ]


def _look(data: ReportData, run: RunData, end: str) -> Style:
    number = data.runs.index(run)
    first = _is_first(end)
    name = f"{run.letter} {end}" if run.letter else end
    mark = "circle-open" if first else "circle"
    if len(data.runs) == 1:
        return Style(name, "@s7" if first else "@s0", "dash" if first else "solid", mark, end)
    return Style(name, f"@s{number}", "dash" if first else "solid", mark, run.letter)


def _is_first(end: str) -> bool:
    return end.startswith("version")


def _steps(look: Style, *, filled: bool) -> Figure:
    """A stair, without marks where the dash is enough to tell."""
    stair: Figure = {"line": {"color": look.colour, "dash": look.dash, "width": 2, "shape": "hvh"}}
    if look.group.startswith(("version", "from", "whole")):
        stair["mode"] = "lines"
    if filled:
        stair |= {"fill": "tozeroy", "fillcolor": f"{look.colour}-soft"}
    return stair


def _edges(histograms: list[Histogram]) -> list[float]:
    """Bins of equal, whole width from 0 to where nearly all entries end; the last one takes what lies beyond."""
    longest = max(histogram.quantile(SHOWN_SHARE) for histogram in histograms)
    width = max(1, -(-(int(longest) + 1) // BINS))
    return [float(width * index) for index in range(-(-(int(longest) + 1) // width) + 1)]
