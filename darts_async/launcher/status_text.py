"""A live run's answer as lines for a person: what it is at, who waits for whom, how full the queues are.

Pure. Lines fit the width where that is possible: tables leave out the columns that matter least, sentences are left
for the terminal to wrap. No character is used that a plain terminal lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from darts_async.runtime.outside_link import StatusAnswer

__all__ = ["Line", "clock", "shown", "status_lines"]

_STILL_S: Final = 10.0
"""Heartbeats bring progress once a second, a long step brings none for a while: below this it means nothing."""
_GAP: Final = "  "


class Line(NamedTuple):
    """One line and how it is set off, where colours are to be had."""

    text: str
    style: str = ""


def status_lines(answer: StatusAnswer, width: int) -> list[Line]:
    """width: columns of the terminal."""
    head = f"{answer.run}: {answer.state}, step {answer.step} of {answer.steps}, {clock(answer.wall_s)} since the start"
    lines = [Line(head, "bold")]
    if answer.still_s >= _STILL_S:
        lines.append(Line(f"nothing has progressed for {clock(answer.still_s)}", "bold red"))
    if answer.stalls:
        lines.append(Line(f"stalls so far: {answer.stalls}; who waited for whom: {answer.stalls_log}", "red"))
    lines += [Line(""), *_roles(answer, width)]
    if answer.queues:
        lines += [Line(""), *_queues(answer, width)]
    lines += [Line(""), Line("who waits for whom, and for how long nothing about it has changed:", "bold")]
    lines += [Line(f"  {sentence}") for sentence in answer.waits]
    lines.append(Line(f"  {answer.verdict}", "bold"))
    if answer.changed:
        lines += [Line(""), Line("set while the run goes on:", "bold")]
        lines += [Line(f"  {key}: {shown(one.old)} -> {shown(one.new)}") for key, one in answer.changed.items()]
    if answer.warnings:
        lines += [Line(""), Line("last warnings:", "bold"), *(Line(f"  {text}", "yellow") for text in answer.warnings)]
    return lines


def clock(seconds: float) -> str:
    """A length of time in words: `7 s`, `3 min 07 s`, `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def shown(value: Any) -> str:
    """A setting's value as it is typed."""
    return "none" if value is None else str(value)


def _roles(answer: StatusAnswer, width: int) -> list[Line]:
    rows = [
        (
            role.name,
            role.state,
            clock(role.state_s),
            "never" if role.heard_s is None else f"{role.heard_s:.0f} s ago",
            "" if role.idle_ratio is None else f"{role.idle_ratio:.0%}",
            str(role.restarts),
            str(role.pid),
        )
        for role in answer.roles
    ]
    return _table(("role", "state", "for", "last heard", "idle", "restarts", "pid"), rows, width, num_left=2)


def _queues(answer: StatusAnswer, width: int) -> list[Line]:
    rows = [
        (
            queue.name.replace("_", " "),
            f"{queue.depth:.0f} of {queue.bound}",
            clock(queue.busy_s) if queue.depth else "",
        )
        for queue in answer.queues
    ]
    return _table(("queue", "holds", "not empty for"), rows, width, num_left=1)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, num_left: int) -> list[Line]:
    """Columns from the left, as many as there is room for, the first two always; the second gives way if it must."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    while len(widths) > 2 and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        widths.pop()
    widths[1] = max(min(widths[1], width - sum(widths) + widths[1] - len(_GAP) * (len(widths) - 1)), len(head[1]))
    lines = []
    for number, row in enumerate((head, *rows)):
        cells = [
            _cut(cell, size).ljust(size) if column < num_left else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append(Line(_GAP.join(cells).rstrip(), "" if number else "dim"))
    return lines


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: max(size - 2, 0)]}.."
