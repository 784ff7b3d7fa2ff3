"""Columns of text that fit a width. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from darts_async.launcher.view.glyphs import Glyphs

__all__ = ["beside", "fitted", "table"]

_GAP: Final = 2


def fitted(row: Text, width: int, glyphs: Glyphs) -> Text:
    """The same in at most so many columns."""
    if row.cell_len <= width:
        return row
    row = row.copy()
    mark = glyphs.ellipsis if width > len(glyphs.ellipsis) else ""
    row.truncate(max(width - len(mark), 0))
    row.append(mark)
    return row


def table(
    rows: Sequence[Sequence[Text]],
    width: int,
    glyphs: Glyphs,
    *,
    flexible: int,
    right: Sequence[int] = (),
    steady: Mapping[int, int] | None = None,
) -> list[Text]:
    """Rows of equally many cells. `flexible`: the column that gives way, down to eight characters; then columns are
    left out from the right, never the first one nor that. `right`: columns that are set to the right. `steady`: least
    widths of columns that are not all empty; the flexible one takes what is left then, so that nothing moves about when
    a cell becomes longer."""
    if not rows:
        return []
    widths = [max(row[column].cell_len for row in rows) for column in range(len(rows[0]))]
    if steady is not None:
        widths = [max(size, steady.get(column, 0)) if size else 0 for column, size in enumerate(widths)]
        widths[flexible] = width
    kept = [column for column, size in enumerate(widths) if size or column == flexible]

    def others() -> int:
        return sum(widths[column] for column in kept if column != flexible) + _GAP * (len(kept) - 1)

    least = min(widths[flexible], 8)
    while others() + least > width and (spare := [column for column in kept if column not in {0, flexible}]):
        kept.remove(spare[-1])
    widths[flexible] = max(min(widths[flexible], width - others()), 0)
    starts = {column: sum(widths[other] + _GAP for other in kept if other < column) for column in kept}
    return [_line(row, width, glyphs, {c: (starts[c], widths[c]) for c in kept}, flexible, right) for row in rows]


def _line(
    row: Sequence[Text],
    width: int,
    glyphs: Glyphs,
    places: Mapping[int, tuple[int, int]],
    flexible: int,
    right: Sequence[int],
) -> Text:
    """Cells at their places, (start, width) by column; the flexible one may reach to the next that is not empty."""
    line = Text(no_wrap=True)
    cells = {c: row[c] if c == flexible else fitted(row[c], places[c][1], glyphs) for c in places if row[c]}
    begins = {c: places[c][0] + (places[c][1] - cell.cell_len if c in right else 0) for c, cell in cells.items()}
    for column, cell in cells.items():
        if column == flexible:
            end = min((begins[c] - _GAP for c in cells if c > column), default=width)
            cell = fitted(cell, max(end - begins[column], 0), glyphs)  # noqa: PLW2901 - the same cell, made to fit
        line.append(" " * (begins[column] - line.cell_len))
        line.append_text(cell)
    return fitted(line, width, glyphs)


def beside(left: Sequence[Text], right: Sequence[Text], width: int, gap: int) -> list[Text]:
    """Two blocks next to each other, the left one so many columns wide."""
    rows = []
    for number in range(max(len(left), len(right))):
        row = left[number].copy() if number < len(left) else Text(no_wrap=True)
        if number < len(right):
            row.append(" " * (width - cell_len(row.plain) + gap))
            row.append_text(right[number])
        rows.append(row)
    return rows
