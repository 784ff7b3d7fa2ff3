"""How many candidates prompts were given, and whether they went where lengths spread."""

from __future__ import annotations

import math
from itertools import pairwise

from darts_async.report.charts.chart import (
    Chart,
    Figure,
    NoChart,
    figure,
    height_of,
    line,
    numbers,
    right_axis,
    shown,
    style,
    title_of,
)
from darts_async.report.data import ReportData, RunData
from darts_async.report.ledger_story import SampledGroup

LEVELS = 10
"""Parts of equal size into which groups are divided by spread."""


def budget_over_steps(data: ReportData) -> list[Chart] | NoChart:
    """Candidates per group by version, beside the spread of lengths."""
    title = "Candidates per group over versions"
    traces: list[Figure] = []
    words = []
    for run in data.runs:
        if run.story is None or not run.story.budgets:
            continue
        points = run.story.budgets
        xs, means = numbers(p.version for p in points), numbers(p.mean for p in points)
        look = style(data, run, "candidates, mean", 0)
        traces += _band(xs, [p.low for p in points], [p.high for p in points], look.colour, look.group)
        traces.append(line(xs, means, look))
        spreads = [p.spread for p in points]
        last = next((spread for spread in reversed(spreads) if math.isfinite(spread)), None)
        traces.append(line(xs, numbers(spreads), style(data, run, "length spread", 1), yaxis="y2"))
        words.append(
            f"{title_of(run)}: from {shown(points[0].mean)} to {shown(points[-1].mean)} candidates a group, spread of "
            f"lengths from {shown(spreads[0])} to {shown(last)} tokens."
        )
    if not traces:
        return NoChart(title, "the ledger has no plan of a group.")
    drawn = figure(
        traces,
        "policy version at dispatch",
        "candidates (M)",
        yaxis2=right_axis("spread, tokens"),
        margin={"r": 56},
    )
    reading = (
        "How many candidates a group was planned with (left; the band holds the middle four fifths of the groups) and "
        "how much lengths spread within groups (right). With allocation.budget = 'auto' both should move together; a "
        "budget that stays high while the spread has gone buys nothing: lower it, or raise allocation.cost_weight."
    )
    return [Chart("budget", title, reading, " ".join(words), drawn, height_of(drawn), wide=True)]


def budget_by_spread(data: ReportData) -> list[Chart] | NoChart:
    """Whether candidates go to the prompts whose lengths spread."""
    title = "Candidates by length spread"
    traces: list[Figure] = []
    words = []
    for number, run in enumerate(data.runs):
        if run.story is None or not run.story.groups:
            continue
        groups = run.story.groups
        if len(data.runs) == 1:
            traces.append(_dots(groups, f"@s{number}"))
        levels = _levels(groups)
        look = style(data, run, "mean of a tenth of the groups", 1)
        traces.append(line(numbers(x for x, _ in levels), numbers(y for _, y in levels), look))
        words.append(
            f"{title_of(run)}: {shown(levels[0][1])} candidates where lengths spread least, {shown(levels[-1][1])} "
            f"where they spread most{_sampled(run)}."
        )
    if not traces:
        return NoChart(title, "the ledger has no group that ended.")
    reading = (
        "A dot a group, the line its mean. It should rise to the right: redundancy goes where it can choose. A flat "
        "line means that budgets are uniform, or that prompts have not been seen before (statistics need a second "
        "visit): see allocation.min, allocation.max and allocation.signal."
    )
    drawn = figure(traces, "spread of the group's lengths, tokens", "candidates (M)", hovermode="closest")
    return [Chart("budget-spread", title, reading, f"{title}. " + " ".join(words), drawn, height_of(drawn), wide=True)]


def _dots(groups: list[SampledGroup], colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "group",
        "x": numbers(group.spread for group in groups),
        "y": [group.candidates for group in groups],
        "marker": {"color": colour, "size": 6, "opacity": 0.35},
        "hovertemplate": "spread %{x:.1f} tokens, %{y} candidates<extra></extra>",
    }


def _levels(groups: list[SampledGroup]) -> list[tuple[float, float]]:
    """Mean spread and mean number of candidates of each tenth, by spread."""
    ordered = sorted(groups, key=lambda group: group.spread)
    parts = min(LEVELS, len(ordered))
    bounds = [len(ordered) * part // parts for part in range(parts + 1)]
    levels = []
    for start, stop in pairwise(bounds):
        part = ordered[start:stop]
        levels.append((sum(g.spread for g in part) / len(part), sum(g.candidates for g in part) / len(part)))
    return levels


def _band(xs: list[float | None], low: list[int], high: list[int], colour: str, group: str) -> list[Figure]:
    edge = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0, "color": colour},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": group,
    }
    return [{**edge, "x": xs, "y": low}, {**edge, "x": xs, "y": high, "fill": "tonexty", "fillcolor": f"{colour}-soft"}]


def _sampled(run: RunData) -> str:
    each = run.story.groups_per_sample if run.story is not None else 1
    return f" (every {each}th group)" if each > 1 else ""
