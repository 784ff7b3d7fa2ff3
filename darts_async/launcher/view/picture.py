"""One snapshot as rows of text for a terminal of some size. Pure: the same snapshot, size and glyphs, the same picture.

Invariants: no row is wider than the terminal and there are no more rows than it has; with ASCII glyphs every character
is ASCII; without colours nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from darts_async.launcher.view import blocks
from darts_async.launcher.view.blocks import Block
from darts_async.launcher.view.glyphs import Glyphs
from darts_async.launcher.view.snapshot import Snapshot
from darts_async.launcher.view.table import beside, fitted

__all__ = ["draw", "span"]

_TWO_COLUMNS: Final = 116
"""From this width on blocks stand next to each other."""
_GAP: Final = 4
_WAYS: Final = ((True, True), (False, True), (False, False))
"""Whether there is room between the parts, and whether they have titles."""
_STATE_STYLES: Final = {"running": "green", "done": "bold green", "failed": "bold red", "killed": "bold red"}


def draw(snapshot: Snapshot, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Rows, from the top."""
    width, height = max(width, 1), max(height, 1)
    parts = [part for part in _parts(snapshot, width, glyphs) if part.rows]
    foot = [Text(glyphs.cut(glyphs.clean(snapshot.hint), width), style="dim")] if snapshot.hint else []
    head = [*_head(snapshot, width, glyphs), *_alarms(snapshot, width, glyphs)]
    body = _stack(parts, height - len(head) - len(foot), width, glyphs)
    if foot:  # on the last row, wherever the rest ends
        body += [Text()] * (height - len(head) - len(body) - len(foot))
    return [fitted(row, width, glyphs) for row in [*head, *body, *foot][:height]]


def span(seconds: float) -> str:
    """A length of time on a clock: `0:07`, `3:07`, `2:05:09`, `3 d 02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _head(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[Text]:
    state = Text(snapshot.state, style=_STATE_STYLES.get(snapshot.state, "yellow"))
    about = glyphs.clean(snapshot.about)
    name = glyphs.clean(snapshot.run)
    title = Text.assemble(("darts-async  ", "dim")) if width >= _TWO_COLUMNS else Text()
    if about and title.cell_len + cell_len(name) + cell_len(about) + state.cell_len + 7 <= width:
        state = Text.assemble((f"{about}  ", "dim"), state)
    name = glyphs.cut(name, max(width - title.cell_len - state.cell_len - 2, 4))
    title.append(name, style="bold")
    title.append(" " * max(width - title.cell_len - state.cell_len, 1))
    title.append_text(state)
    return [title, _progress(snapshot, width, glyphs)]


def _progress(snapshot: Snapshot, width: int, glyphs: Glyphs) -> Text:
    steps = max(snapshot.steps, snapshot.step)
    left = f"step {snapshot.step:,} of {steps:,}"
    times = [span(snapshot.wall_s)]
    if snapshot.left_s is not None:
        times.append(f"about {span(snapshot.left_s)} left")
    right = ", ".join(times)
    if snapshot.step_s is not None and width >= _TWO_COLUMNS:
        right = f"{snapshot.step_s:.1f} s a step, {right}"
    room = width - len(left) - len(right) - 4
    if room < 6:
        return Text(f"{left}  {right}")
    full, empty = glyphs.bar(snapshot.step / steps if steps else 0.0, room)
    return Text.assemble((left, "bold"), "  ", (full, "green"), (empty, "bright_black"), "  ", right)


def _alarms(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[Text]:
    rows = []
    for text in snapshot.alarms[:3]:
        rows += [Text(line, style="bold red") for line in glyphs.wrap(text, width, 2)]
    return rows


def _parts(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[Block]:
    below = [Block("", _changed(snapshot, width, glyphs), 1), blocks.warnings(snapshot, width, glyphs)]
    if width < _TWO_COLUMNS:
        return [
            blocks.roles(snapshot, width, glyphs),
            blocks.queues(snapshot, width, glyphs),
            blocks.trends(snapshot, width, glyphs),
            blocks.result_lines(snapshot, width, glyphs),
            *below,
        ]
    left = (width - _GAP) * 5 // 8
    right = width - _GAP - left
    pairs = (
        (blocks.roles(snapshot, left, glyphs), blocks.queues(snapshot, right, glyphs)),
        (blocks.trends(snapshot, left, glyphs), blocks.result_rows(snapshot, right, glyphs)),
    )
    return [*(_pair(one, other, left) for one, other in pairs), *below]


def _pair(left: Block, right: Block, width: int) -> Block:
    """Two blocks as one; the title of the right one stands above it."""
    if not left.rows or not right.rows:
        return left if left.rows else right
    title = left.title.ljust(width + _GAP) + right.title
    return Block(title, beside(left.rows, right.rows, width, _GAP), max(left.least, right.least))


def _changed(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[Text]:
    if not snapshot.changed:
        return []
    told = (f"{key} {_value(one.old)} -> {_value(one.new)}" for key, one in snapshot.changed.items())
    return [Text(line, style="magenta") for line in glyphs.wrap(f"set: {', '.join(told)}", width, 2)]


def _value(value: object) -> str:
    return "none" if value is None else str(value)


def _stack(parts: Sequence[Block], height: int, width: int, glyphs: Glyphs) -> list[Text]:
    """One below the other: with titles and room between them, without, and at last with fewer rows."""
    spaced, titled = next(
        (way for way in _WAYS if _need(parts, *way) + sum(min(len(part.rows), part.wish) for part in parts) <= height),
        _WAYS[-1],
    )
    rows: list[Text] = []
    lengths = _lengths(parts, height - _need(parts, spaced, titled))
    for part, length in zip(parts, lengths, strict=True):
        if spaced:
            rows.append(Text())
        if titled and part.title and length:
            rows.append(fitted(Text(part.title, style="dim"), width, glyphs))
        rows += part.rows[:length]
    return rows


def _need(parts: Sequence[Block], spaced: bool, titled: bool) -> int:
    """Rows besides those of the parts."""
    return sum((titled and bool(part.title)) + spaced for part in parts)


def _lengths(parts: Sequence[Block], height: int) -> list[int]:
    """How many rows of each part are shown; the last parts give way first, none below its least."""
    lengths = [len(part.rows) for part in parts]
    for number in reversed(range(len(parts))):
        over = sum(lengths) - max(height, 0)
        if over <= 0:
            break
        lengths[number] = max(lengths[number] - over, min(parts[number].least, lengths[number]))
    return lengths
