"""The README's table of soaks: made of their results, put between two marks, touched by nobody's hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from soaks.result import Result, Row

MARKS = ("<!-- soak table: make soak -->", "<!-- end of soak table -->")


def render(results: Sequence[Result]) -> str:
    """Markdown: a row a fault, and a line on how the figures came about."""
    lines = ["| fault | times | outcome | recovery, median / worst | memory |", "|---|---:|---|---:|---|"]
    lines += [_line(row, result) for result in results for row in result.rows]
    took = ", ".join(f"{result.name} {result.seconds:,.0f} s" for result in results)
    lines += ["", f"Measured by `make soak` on a machine with {os.cpu_count()} CPUs and no GPU in use ({took})."]
    return "\n".join(lines) + "\n"


def check_place(readme: Path) -> None:
    """See that there is a place for the table. Raises as `put_into` does."""
    _around(readme)


def put_into(readme: Path, table: str) -> None:
    """Replace what stands between the marks. Raises `ValueError` when the file has no such place, `OSError`."""
    head, tail = _around(readme)
    readme.write_text(f"{head}{MARKS[0]}\n{table}{MARKS[1]}{tail}", "utf-8")


def _around(readme: Path) -> tuple[str, str]:
    head, begin, rest = readme.read_text("utf-8").partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"{readme} has no place for the table: it needs a line {MARKS[0]} and a line {MARKS[1]}")
    return head, tail


def _line(row: Row, result: Result) -> str:
    outcome = row.outcome if result.ok else f"**not fine**: {row.outcome}"
    recovery = "" if row.median_s is None or row.worst_s is None else f"{row.median_s:.1f} s / {row.worst_s:.1f} s"
    cells = (row.fault, f"{row.times:,}", outcome, recovery, row.memory)
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
