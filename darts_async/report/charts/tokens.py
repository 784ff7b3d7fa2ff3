"""Where the generated tokens went, as a flow."""

from __future__ import annotations

from collections.abc import Mapping

from darts_async.messages import LEDGER_STATES
from darts_async.report.charts.chart import AGAIN, Chart, Figure, NoChart, plain, shown, title_of
from darts_async.report.data import ReportData, RunData

_FINISHED = ("trained", "rejected", "stale")
_WORDS = {
    "trained": "trained on",
    "rejected": "rejected",
    "stale": "stale",
    "cancelled_tail": "cancelled (tail)",
    "cancelled_shutdown": "cancelled (end of run)",
    "failed": "failed",
}
_COLOURS = {
    "trained": "@good",
    "rejected": "@s4",
    "stale": "@s3",
    "cancelled_tail": "@s1",
    "cancelled_shutdown": "@s7",
    "failed": "@bad",
}


_READING = (
    "Every generated token ends in one place. Trained on should be most of it. A thick rejected band is paid for and "
    "not used: lower allocation.budget, or let a rule cancel earlier (shortest, survivor). Cancelled (tail) is the "
    "part spent before it was certain that a candidate is not needed. Stale and failed should be hair thin: they point "
    "to faults."
)


def token_flow(data: ReportData) -> list[Chart] | NoChart:
    """One flow a run, beside each other."""
    charts: list[Chart] = []
    for run in data.runs:
        if (chart := _flow(run, alone=len(data.runs) == 1, first=not charts)) is not None:
            charts.append(chart)
    return charts or NoChart("From generated to trained", "no candidate has ended.")


def tokens_by_state(run: RunData) -> dict[str, float]:
    """From the ledger; of a run without one from the summary, else from the last step."""
    if run.story is not None and any(run.story.tokens.values()):
        return {state: float(run.story.tokens[state]) for state in LEDGER_STATES}
    if run.summary is not None and any(run.summary.tokens.values()):
        return {state: float(run.summary.tokens.get(state) or 0.0) for state in LEDGER_STATES}
    return {state: run.series.last.get(f"tokens/{state}", 0.0) for state in LEDGER_STATES}


def _flow(run: RunData, *, alone: bool, first: bool) -> Chart | None:
    tokens = tokens_by_state(run)
    total = sum(tokens.values())
    if not total:
        return None
    words = ", ".join(f"{_WORDS[state]} {100 * count / total:.1f}%" for state, count in tokens.items() if count)
    saved = run.summary.tokens_saved_estimate if run.summary is not None else None
    reading = _READING if first else AGAIN
    if saved:
        reading += f" Cancelling saved about {shown(saved)} tokens more that were never decoded."
    title = "From generated to trained" if alone else f"From generated to trained: {run.letter}"
    alt = f"{title_of(run)}: of {shown(total)} tokens {words}."
    return Chart(f"tokens-{run.letter or 'run'}", title, reading, alt, _sankey(tokens, total), wide=alone)


def _sankey(tokens: Mapping[str, float], total: float) -> Figure:
    finished = sum(tokens[state] for state in _FINISHED)
    labels, colours, links = [f"generated<br>{total:,.0f}"], ["@s0"], []
    for name, states, amount in (
        ("finished", _FINISHED, finished),
        ("not finished", tuple(s for s in tokens if s not in _FINISHED), total - finished),
    ):
        if not amount:
            continue
        middle = len(labels)
        labels.append(f"{name}<br>{100 * amount / total:.1f}%")
        colours.append("@s0" if name == "finished" else "@s7")
        links.append((0, middle, amount, "@flow"))
        for state in states:
            if tokens[state]:
                links.append((middle, len(labels), tokens[state], f"{_COLOURS[state]}-soft"))
                labels.append(plain(f"{_WORDS[state]}") + f"<br>{100 * tokens[state] / total:.1f}%")
                colours.append(_COLOURS[state])
    trace = {
        "type": "sankey",
        "arrangement": "snap",
        "node": {"label": labels, "color": colours, "pad": 22, "thickness": 14, "line": {"width": 0}},
        "link": {
            "source": [link[0] for link in links],
            "target": [link[1] for link in links],
            "value": [link[2] for link in links],
            "color": [link[3] for link in links],
        },
        "valueformat": ",.0f",
        "valuesuffix": " tokens",
        "textfont": {"color": "@ink", "size": 13},
    }
    layout = {
        "font": {"color": "@ink", "size": 13, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 8, "t": 16, "b": 16},
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@line", "font": {"color": "@ink"}},
    }
    return {"data": [trace], "layout": layout}
