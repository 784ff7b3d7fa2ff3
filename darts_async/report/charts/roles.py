"""The timeline: what each role did in a stretch of the run, a lane for each kind of work."""

from __future__ import annotations

from collections import Counter, defaultdict

from darts_async.report.charts.chart import AGAIN, Chart, Figure, NoChart, figure, plain, shown, title_of
from darts_async.report.data import ReportData, RunData
from darts_async.report.timeline import Span, Timeline, overlap, role_order

MAX_LANES = 24
LANE_PX = 34
_LOOKS = {
    "dispatch": ("@s7", ""),
    "decode": ("@s0", ""),
    "prefill": ("@s5", "/"),
    "swap": ("@s3", "x"),
    "cancel": ("@s1", ""),
    "reward": ("@s2", ""),
    "select": ("@s7", ""),
    "forward_backward": ("@s4", ""),
    "optimiser": ("@s6", "\\"),
    "publish": ("@s3", "."),
    "evaluate": ("@s7", "/"),
    "waiting": ("@grid", ""),
}
"""Colour and hatching by kind of work."""
_ORDER = tuple(_LOOKS)


_READING = (
    "A lane for each kind of work of each role, in a stretch from the middle of the run (trace.json in "
    "ui.perfetto.dev has all of it). Where bars stand above each other the roles overlap; crosses are moments such as "
    "cancels. Good: decoding without gaps above a learner without gaps. A learner that waits while decoding goes on is "
    "short of groups (more generators, smaller allocation.budget, more cancelling); gaps in decoding while the learner "
    "works mean that too little is in flight (queues.in_flight_groups, pipeline.max_staleness)."
)


def timeline(data: ReportData) -> list[Chart] | NoChart:
    """One a run."""
    drawn = [run for run in data.runs if run.timeline.spans]
    charts = [_draw(run, alone=len(data.runs) == 1, first=run is drawn[0]) for run in drawn]
    if charts:
        return charts
    why = (
        "there is no trace.json, and the steps are too many to be told apart in metrics.jsonl."
        if any(run.series.num_steps for run in data.runs)
        else "no step was completed."
    )
    return NoChart("Timeline of the roles", why)


def _draw(run: RunData, *, alone: bool, first: bool) -> Chart:
    shown_lines = run.timeline
    lanes = _lanes(shown_lines)
    traces: list[Figure] = []
    for category in sorted({span.category for span in shown_lines.spans}, key=_place):
        spans = [s for s in shown_lines.spans if s.category == category and _lane(s) in lanes]
        lasting = [s for s in spans if s.duration_s > 0]
        moments = [s for s in spans if s.duration_s <= 0]
        if lasting:
            traces.append(_bars(category, lasting))
        if moments:
            traces.append(_marks(category, moments, legend=not lasting))
    drawn = figure(
        traces,
        "wall-clock, s",
        "",
        yaxis={"categoryorder": "array", "categoryarray": lanes[::-1], "type": "category", "showgrid": True},
        xaxis={"range": [shown_lines.start_s, shown_lines.stop_s]},
        barmode="overlay",
        bargap=0.3,
        hovermode="closest",
        showlegend=False,
    )
    title = "Timeline of the roles" if alone else f"Timeline of the roles: {run.letter}"
    return Chart(
        f"timeline-{run.letter or 'run'}",
        title,
        _reading(run, first=first),
        f"{title_of(run)}, from second {shown_lines.start_s:.2f} to {shown_lines.stop_s:.2f}. {_sums(shown_lines)}",
        drawn,
        height=90 + LANE_PX * len(lanes),
        wide=True,
    )


def _bars(category: str, spans: list[Span]) -> Figure:
    colour, pattern = _LOOKS.get(category, ("@s7", ""))
    return {
        "type": "bar",
        "orientation": "h",
        "name": plain(category),
        "base": [round(span.start_s, 5) for span in spans],
        "x": [round(span.duration_s, 6) for span in spans],
        "y": [_lane(span) for span in spans],
        "marker": {
            "color": colour,
            "opacity": 0.85,
            "line": {"color": colour, "width": 1},
            "pattern": {"shape": pattern, "size": 5},
        },
        "hovertemplate": "%{y}<br>from %{base:.3f} s for %{x:.4f} s<extra></extra>",
    }


def _marks(category: str, spans: list[Span], *, legend: bool) -> Figure:
    colour, _ = _LOOKS.get(category, ("@s7", ""))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(category),
        "showlegend": legend,
        "x": [round(span.start_s, 5) for span in spans],
        "y": [_lane(span) for span in spans],
        "marker": {"color": colour, "symbol": "x-thin-open", "size": 9, "line": {"width": 2}},
        "hovertemplate": "%{y}<br>at %{x:.3f} s<extra></extra>",
    }


def _lane(span: Span) -> str:
    return f"{plain(span.role, 24)}<br>{plain(span.category.replace('_', ' '), 24)}"


def _lanes(shown_lines: Timeline) -> list[str]:
    pairs = {(span.role, span.category): _lane(span) for span in shown_lines.spans}
    ordered = sorted(pairs, key=lambda pair: (role_order(pair[0]), _place(pair[1])))
    return list(dict.fromkeys(pairs[pair] for pair in ordered))[:MAX_LANES]


def _place(category: str) -> tuple[int, str]:
    return (_ORDER.index(category) if category in _ORDER else len(_ORDER)), category


def _reading(run: RunData, *, first: bool) -> str:
    shown_lines = run.timeline
    text = _READING if first else AGAIN
    if shown_lines.source == "metrics":
        return (
            f"{text} There is no trace to draw from: steps are divided into their parts in the order waiting, "
            "forward and backward, rest, and decoding is as long as the engine was busy in the step; when exactly is "
            "not known. With metrics.trace = true it is."
        )
    if (shares := overlap(shown_lines)) is not None:
        decoded, computed, both = (f"{100 * share:.0f}%" for share in shares)
        text += f" Here generators decoded {decoded} of the time, the learner computed {computed}, both at once {both}."
    if shown_lines.num_left_out:
        text += f" {shown_lines.num_left_out:,} spans of the stretch are left out."
    return text


def _sums(shown_lines: Timeline) -> str:
    seconds: defaultdict[str, float] = defaultdict(float)
    moments: Counter[str] = Counter()
    for span in shown_lines.spans:
        name = f"{span.role} {span.category}"
        if span.duration_s > 0:
            seconds[name] += min(span.start_s + span.duration_s, shown_lines.stop_s) - max(
                span.start_s, shown_lines.start_s
            )
        else:
            moments[name] += 1
    parts = [f"{name}: {shown(total)} s in all" for name, total in sorted(seconds.items())]
    parts += [f"{name}: {count} times" for name, count in sorted(moments.items())]
    return "; ".join(parts) + "."
