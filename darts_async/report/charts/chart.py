"""What every chart is made of: a figure as plotly.js takes it, in colours that the page fills in, with its words.

Colours are names (`@ink`, `@s0`) that the page replaces by those of the light or the dark theme, so that a figure needs
not be drawn again for the other one. Runs and series differ by dash and marker as well as by colour. Text that comes
from a run is escaped: plotly reads markup in it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from darts_async.report.data import ReportData, RunData

__all__ = [
    "AGAIN",
    "Chart",
    "Figure",
    "NoChart",
    "Style",
    "figure",
    "height_of",
    "line",
    "numbers",
    "plain",
    "right_axis",
    "shown",
    "style",
    "title_of",
]

Figure: TypeAlias = dict[str, Any]

DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKS: Final = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "hexagon")
MARKS_ALL: Final = 30
"""A line of up to so many points has a mark at each,"""
MARKS_SHOWN: Final = 12
"""a longer one about so many: enough to tell lines apart."""
HEIGHT: Final = 300
NAMES_IN_A_ROW: Final = 4
NAME_PX: Final = 8
MAX_TEXT: Final = 60
AGAIN: Final = "Read it as the chart of the run before."


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure and its words."""

    id: str
    title: str
    reading: str
    """How to read it, what is good, which knob it points to."""
    alt: str
    """What one sees, in words and figures, for those who do not see it."""
    figure: Figure
    height: int = HEIGHT
    wide: bool = False
    """It takes the page's whole width."""


@dataclass(frozen=True, slots=True)
class NoChart:
    """There is nothing to draw."""

    title: str
    why: str


@dataclass(frozen=True, slots=True)
class Style:
    """How a line looks."""

    name: str
    colour: str
    dash: str
    mark: str
    group: str
    """Lines that the legend switches together."""


def style(data: ReportData, run: RunData, series: str, index: int) -> Style:
    """With one run every series has its colour; with several every run has, and a series its dash."""
    number, series = data.runs.index(run), plain(series)
    if len(data.runs) == 1:
        return Style(series, f"@s{index % 8}", DASHES[index % 6], MARKS[index % 8], series)
    name = f"{run.letter} {series}" if series else run.letter
    return Style(name, f"@s{number}", DASHES[index % 6], MARKS[number], run.letter)


def line(xs: Sequence[float | None], ys: Sequence[float | None], look: Style, **more: Any) -> Figure:
    """A trace: points in the order given, gaps where a value is None."""
    few = sum(y is not None for y in ys) <= MARKS_ALL
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": xs,
        "y": ys,
        "name": look.name,
        "legendgroup": look.group,
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {"color": look.colour, "symbol": look.mark, "size": 7, "maxdisplayed": 0 if few else MARKS_SHOWN},
        "connectgaps": True,
        **more,
    }


def figure(traces: list[Figure], x: str, y: str, **layout: Any) -> Figure:
    """Traces with labelled axes in the page's look; `layout` is merged over it, axis by axis."""
    base: Figure = {
        "xaxis": _axis(x),
        "yaxis": {**_axis(y), "rangemode": "tozero"},
        "font": {"color": "@ink", "size": 13, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 52, "r": 12, "t": 12, "b": 44},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@line", "font": {"color": "@ink"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        "showlegend": len({trace.get("name") for trace in traces if trace.get("showlegend", True)}) > 1,
    }
    for key, value in layout.items():
        known = base.get(key)
        base[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return {"data": traces, "layout": base}


def right_axis(title: str) -> Figure:
    """A second scale, on the right, with ticks of its own."""
    return {
        **_axis(title),
        "overlaying": "y",
        "side": "right",
        "showgrid": False,
        "rangemode": "tozero",
        "tickmode": "auto",
        "nticks": 5,
    }


def _axis(title: str) -> Figure:
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
        "automargin": True,
    }


def numbers(values: Iterable[float]) -> list[float | None]:
    """As JSON has them: five digits are more than a screen shows, and what is not finite is a gap."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


def plain(text: str, most: int = MAX_TEXT) -> str:
    """Text out of a run for a chart: no markup, no more than fits."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return html.escape(short, quote=False)


def shown(value: float | None, digits: int = 3) -> str:
    """A figure in words: three digits that count, thousands divided."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value == round(value) or abs(value) >= 10**digits:
        return f"{round(value):,}"
    return f"{value:.{digits}g}"


def height_of(drawn: Figure) -> int:
    """A legend of many names needs room of its own above the plot."""
    return HEIGHT + NAME_PX * max(0, len(drawn["data"]) - NAMES_IN_A_ROW)


def title_of(run: RunData) -> str:
    """How a chart's words call a run."""
    return f"Run {run.letter}" if run.letter else "The run"
