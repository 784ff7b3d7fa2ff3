"""From the cells' summaries and metrics to rows for people (Markdown) and for tools (CSV). Pure.

A figure that was not measured is left empty, never zero. Means are over seeds; where runs of one preset differ enough
to mislead, the range stands beside the mean. A cell that failed is named with its reason and is in no mean.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence

from darts_async.bench.columns import ALL, CellResult, Column, TableForm


def to_markdown(cells: Sequence[CellResult], note: str, form: TableForm) -> str:
    """Return the form's tables, a row a preset in order of appearance, under a line on how they were measured."""
    parts = [note]
    for columns in form.parts:
        parts += ["", *_table(cells, columns, form.row)]
    if missing := [cell for cell in cells if not cell.done]:
        parts += ["", *(f"- not in the tables: {cell.preset}, seed {cell.seed}: {_why(cell)}" for cell in missing)]
    return "\n".join(parts) + "\n"


def to_csv(cells: Iterable[CellResult]) -> str:
    """Return a line a cell, failed ones included, with every figure unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["preset", "seed", "status", *(column.key for column in ALL)])
    for cell in cells:
        status = "not run" if cell.summary is None else cell.summary.get("status", "")
        figures = (column.figure(cell) for column in ALL)
        writer.writerow([cell.preset, cell.seed, status, *("" if value is None else value for value in figures)])
    return out.getvalue()


def _table(cells: Sequence[CellResult], columns: Sequence[Column], row: str) -> list[str]:
    lines = [
        f"| {row} | seeds | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---:|" * (len(columns) + 1),
    ]
    for preset in dict.fromkeys(cell.preset for cell in cells):
        done = [cell for cell in cells if cell.preset == preset and cell.done]
        figures = (_show(column, done) for column in columns)
        lines.append(f"| `{preset}` | {len(done)} | " + " | ".join(figures) + " |")
    return lines


def _show(column: Column, cells: Sequence[CellResult]) -> str:
    values = [value for cell in cells if (value := column.figure(cell)) is not None]
    if not values:
        return ""
    shown = column.form.format(statistics.fmean(values))
    if column.ranged and len(values) > 1:
        shown += f" ({column.form.format(min(values))}..{column.form.format(max(values))})"
    return shown


def _why(cell: CellResult) -> str:
    if cell.summary is None:
        return "not run"
    reason = " ".join(str(cell.summary.get("reason", "")).split())
    status = str(cell.summary.get("status", ""))
    return f"{status}: {reason}" if reason else status
