"""The parts of a picture, each as rows of text in so many columns: roles, queues, trends, results. Pure.

Rows stand in the order of importance, as far as that can be: a low terminal shows the first ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from darts_async.launcher.view.glyphs import Glyphs
from darts_async.launcher.view.history import TRENDS, resampled
from darts_async.launcher.view.snapshot import Snapshot
from darts_async.launcher.view.table import fitted, table
from darts_async.messages import ROLES
from darts_async.runtime.outside_link import EvalLine, QueueLine, RoleLine

__all__ = ["Block", "queues", "result_lines", "result_rows", "roles", "trends", "warnings"]

_MOST_GENERATORS: Final = 4
"""More become one row."""
_MOST_IN_TROUBLE: Final = 2
_SILENT_S: Final = 5.0
_IDLE_BAR: Final = 8
_WIDE: Final = 76
"""Columns from which on there is room for what only pleases."""
_MOST_SPARKS: Final = 64
_TROUBLE: Final = ("was killed", "exited", "starting")
_FINE: Final = "exited with status 0"


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a picture."""

    title: str
    rows: list[Text]
    least: int
    """So many rows stay on the lowest terminal."""
    wish: int = 1 << 10
    """Beyond so many rows, titles and room between the parts are worth more."""


def roles(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Block:
    """Who takes part, in the order in which data flows."""
    lines: dict[str, list[RoleLine]] = {role: [] for role in ROLES}
    for line in snapshot.roles:
        lines.setdefault(line.name.rpartition("-")[0], []).append(line)
    rows: list[list[Text]] = []
    for role, found in lines.items():
        if role == "generator" and len(found) > _MOST_GENERATORS:
            rows.append(_all_generators(found, glyphs, width))
            in_trouble = [line for line in found if _is_silent(line) or line.state.startswith(_TROUBLE)]
            rows += [_role(line, snapshot, glyphs, width) for line in in_trouble[:_MOST_IN_TROUBLE]]
        else:
            rows += [_role(line, snapshot, glyphs, width) for line in found]
    steady = {0: 13, 4: 14 if width >= _WIDE - 8 else 11}
    return Block("roles", table(rows, width, glyphs, flexible=1, right=(3, 4), steady=steady), 4)


def _role(line: RoleLine, snapshot: Snapshot, glyphs: Glyphs, width: int) -> list[Text]:
    role = line.name.rpartition("-")[0]
    rate = line.gauges.get("generator/tokens_per_s")
    if role == "learner":
        rate = snapshot.learner_tokens_per_s
    live = line.gauges.get(f"{role}/live_groups")
    does = "" if rate is None else _rate(rate, width)
    if live is not None:
        does = f"{live:.0f} {'group' if round(live) == 1 else 'groups'} live"
    running = line.gauges.get("generator/running", 0.0)
    state = f"{line.state} {running:.0f}" if running and line.state == "decoding" else line.state
    style = "yellow" if line.state.startswith("starting") else ""
    if line.state.startswith(_TROUBLE[:2]) and line.state != _FINE:
        style = "red"
    if _is_silent(line):
        state, style = f"no sign of life for {line.heard_s:.0f} s; before: {line.state}", "red"
    return [
        Text(glyphs.clean(line.name), style="bold"),
        Text(glyphs.clean(state), style=style),
        _idle(None if _is_silent(line) else line.idle_ratio, glyphs, width),
        _restarts(line.restarts),
        Text(does),
    ]


def _all_generators(lines: Sequence[RoleLine], glyphs: Glyphs, width: int) -> list[Text]:
    states = Counter("no sign of life" if _is_silent(line) else line.state for line in lines)
    idle = [line.idle_ratio for line in lines if line.idle_ratio is not None]
    rates = [rate for line in lines if (rate := line.gauges.get("generator/tokens_per_s")) is not None]
    restarts = sum(line.restarts for line in lines)
    state = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return [
        Text(f"{len(lines)} generators", style="bold"),
        Text(glyphs.clean(state)),
        _idle(sum(idle) / len(idle) if idle else None, glyphs, width),
        _restarts(restarts),
        Text(_rate(sum(rates), width) if rates else ""),
    ]


def _rate(tokens_per_s: float, width: int) -> str:
    return f"{tokens_per_s:,.0f} {'tokens/s' if width >= _WIDE - 8 else 'tok/s'}"


def _restarts(number: int) -> Text:
    return Text(f"{number} restart{'' if number == 1 else 's'}" if number else "", style="yellow")


def _is_silent(line: RoleLine) -> bool:
    return line.heard_s is not None and line.heard_s > _SILENT_S


def _idle(share: float | None, glyphs: Glyphs, width: int) -> Text:
    if share is None:
        return Text()
    text = Text(f"idle {share:4.0%}")
    if width >= _WIDE:
        text.append(" ")
        text.append_text(_bar(share, _IDLE_BAR, glyphs, "yellow"))
    return text


def _bar(share: float, width: int, glyphs: Glyphs, style: str) -> Text:
    full, empty = glyphs.bar(share, width)
    return Text.assemble((full, style), (empty, "bright_black"))


def queues(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Block:
    """How full they are, against their bounds as they are now."""
    labels = [glyphs.clean(queue.name.replace("_", " ")) for queue in snapshot.queues]
    holds = [_holds(queue) for queue in snapshot.queues]
    label_width = max(map(cell_len, labels), default=0)
    bar_width = min(max(width - label_width - max(map(len, holds), default=0) - 4, 4), 32)
    rows = []
    for queue, label, held in zip(snapshot.queues, labels, holds, strict=True):
        share = queue.depth / queue.bound if queue.bound else 0.0
        rows.append([Text(label), _bar(share, bar_width, glyphs, "cyan"), Text(held)])
    return Block("queues", table(rows, width, glyphs, flexible=1, right=(2,)), 2)


def _holds(queue: QueueLine) -> str:
    return f"{queue.depth:,.0f} of {queue.bound:,}"


def trends(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Block:
    """The last value of each figure, the whole run as a sparkline, and the range that it is drawn in."""
    found = [(name, label, snapshot.trends[name]) for name, label in TRENDS.items() if name in snapshot.trends]
    if not found:
        return Block("trends", [Text("no step is done yet", style="dim")] if snapshot.roles else [], 1)
    steady = {0: max(len(label) for _, label, _ in found), 1: 6, 3: 12}
    for name, _, trend in found:  # a mean lies between the points that it is of: no range gets longer than this
        steady[1] = max(steady[1], len(_number(name, trend.last)))
        steady[3] = max(steady[3], len(_range(name, trend.points)))
    room = min(max(width - sum(steady.values()) - 6, 8), _MOST_SPARKS)
    rows = []
    for name, label, trend in found:
        shown = resampled(trend.points, room)
        spark = glyphs.spark(shown, min(shown), max(shown))
        figures = Text(_number(name, trend.last), style="bold"), Text(spark, style="cyan")
        rows.append([Text(label), *figures, Text(_range(name, shown), "dim")])
    return Block("trends", table(rows, width, glyphs, flexible=2, right=(1, 3), steady=steady), 2)


def _number(name: str, value: float) -> str:
    return _TEMPLATES.get(name, "{:.2f}").format(value)


def _range(name: str, points: Sequence[float]) -> str:
    return f"{_number(name, min(points))} to {_number(name, max(points))}"


_TEMPLATES: Final = {
    "response_length/generated": "{:,.0f}",
    "response_length/kept": "{:,.0f}",
    "cancelled_share": "{:.0%}",
}


def result_rows(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Block:
    """Held-out scores and what became of the tokens, a row each."""
    rows = [
        [
            Text(f"held-out {_when(one)}"),
            Text(f"{one.reward:.3f}", style="bold"),
            Text(_length(one)),
        ]
        for one in _told(snapshot.evals, 3)
    ]
    lines = []
    if total := sum(snapshot.tokens.values()):
        rows.append([Text("tokens so far"), Text(_count(total), style="bold"), Text(_useful(snapshot))])
        lines.append(Text(f"not trained: {_useless(snapshot)}"))
    if snapshot.tokens_saved:
        lines.append(Text(f"saved by cancels: about {_count(snapshot.tokens_saved)}"))
    rows_of_three = table(rows, width, glyphs, flexible=2, right=(1,))
    return Block("results", [*rows_of_three, *(fitted(line, width, glyphs) for line in lines)], 1)


def result_lines(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Block:
    """The same on one line each, with as much as there is room for."""
    rows = []
    if told := _told(snapshot.evals, 2):
        between = f" {glyphs.dot} "
        full = between.join(f"{_when(one)} {one.reward:.3f} ({_length(one)})" for one in told)
        short = between.join(f"{_when(one)} {one.reward:.3f}" for one in told)
        rows.append(Text.assemble("held-out  ", (full if len(full) + 10 <= width else short, "bold")))
    if total := sum(snapshot.tokens.values()):
        line = Text.assemble("tokens    ", (_count(total), "bold"), ": ", _useful(snapshot))
        saved = f"; about {_count(snapshot.tokens_saved)} saved" if snapshot.tokens_saved else ""
        for more in (f", {_useless(snapshot)}", saved):
            if line.cell_len + len(more) <= width:
                line.append(more)
        rows.append(line)
    return Block("results", [fitted(row, width, glyphs) for row in rows], 1)


def _told(evals: Sequence[EvalLine], most: int) -> list[EvalLine]:
    """The first one and the last ones."""
    return [*evals[:1], *evals[1:][-(most - 1) :]]


def _when(one: EvalLine) -> str:
    return f"at version {one.version}" if one.label == "during" else one.label


def _length(one: EvalLine) -> str:
    return f"{one.response_length:.1f} tokens"


def _useful(snapshot: Snapshot) -> str:
    total = sum(snapshot.tokens.values())
    return f"{snapshot.tokens.get('trained', 0.0) / total:.0%} trained"


def _useless(snapshot: Snapshot) -> str:
    total = sum(snapshot.tokens.values())
    shares = {
        _STATES.get(state, state): count / total
        for state, count in snapshot.tokens.items()
        if state != "trained" and count
    }
    largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{share:.0%} {state}" for state, share in largest) or "nothing"


_STATES: Final = {"cancelled_tail": "cancelled", "cancelled_shutdown": "cut off"}


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e7, "M")):
        if number >= size:
            return f"{number / (1e6 if unit == 'M' else size):,.1f} {unit}"
    return f"{number:,.0f}"


def warnings(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Block:
    """The latest first: there may be no room for more."""
    rows = []
    for text in reversed(snapshot.warnings):
        rows += [Text(line, style="yellow") for line in glyphs.wrap(text, width, 2)]
    return Block("last warnings", rows, 1, 2)
