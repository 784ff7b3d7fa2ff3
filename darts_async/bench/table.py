"""From the cells' summaries and metrics to rows for people (Markdown) and for tools (CSV). Pure.

A figure that was not measured is left empty, never zero. Means are over seeds; where runs of one preset differ enough
to mislead, the range stands beside the mean. A cell that failed is named with its reason and is in no mean.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class CellResult:
    """What is known of one cell."""

    preset: str
    seed: int
    summary: Mapping[str, Any] | None
    """Of `summary.json`; None when the cell has not been run."""
    steps: Sequence[Mapping[str, float]] = ()
    """Lines of `metrics.jsonl`."""

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return self.summary is not None and self.summary.get("status") == "done"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a cell."""

    key: str
    """Its name in the CSV, with its unit."""
    title: str
    form: str
    """How a number is shown."""
    figure: Callable[[CellResult], float | None]
    ranged: bool = False
    """Whether the range over the seeds is shown."""


def _summary(*path: str) -> Callable[[CellResult], float | None]:
    def figure(cell: CellResult) -> float | None:
        value: Any = cell.summary
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    return figure


def _share(part: tuple[str, ...], whole: tuple[str, ...]) -> Callable[[CellResult], float | None]:
    def figure(cell: CellResult) -> float | None:
        above, below = _summary(*part)(cell), _summary(*whole)(cell)
        return above / below if above is not None and below else None

    return figure


def _other_tokens(cell: CellResult) -> float | None:
    parts = [_summary("tokens", state)(cell) for state in ("stale", "failed", "cancelled_shutdown")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _of_steps(
    name: str, reduce: Callable[[Sequence[float]], float], skip: int = 0
) -> Callable[[CellResult], float | None]:
    """Reduce a metric over the steps; the first `skip` are left out if there are others."""

    def figure(cell: CellResult) -> float | None:
        values = [step[name] for step in cell.steps if name in step]
        return reduce(values[skip:] or values) if values else None

    return figure


SPEED: Final = (
    # The first step waits for the first evaluation and the first rollouts of the run.
    Column("step_s", "step s", "{:.2f}", _of_steps("learner/step_s", statistics.median, skip=1), ranged=True),
    Column("training_s", "training s", "{:.1f}", _summary("bench", "training_s"), ranged=True),
    Column("generator_idle", "generator idle", "{:.0%}", _summary("bench", "generator_idle")),
    Column("learner_idle", "learner idle", "{:.0%}", _summary("idle_ratio", "learner")),
    Column("staleness_mean", "staleness", "{:.2f}", _summary("staleness", "mean")),
    Column("tokens_generated", "tokens generated", "{:,.0f}", _summary("tokens", "generated"), ranged=True),
    Column("tokens_trained", "trained", "{:,.0f}", _summary("tokens", "trained")),
    Column("tokens_rejected", "rejected", "{:,.0f}", _summary("tokens", "rejected")),
    Column("tokens_cancelled", "cancelled", "{:,.0f}", _summary("tokens", "cancelled_tail")),
    Column("tokens_other", "other", "{:,.0f}", _other_tokens),
    Column("useful_share", "useful", "{:.0%}", _share(("tokens", "trained"), ("tokens", "generated"))),
)
LEARNED: Final = (
    Column("length_finished", "length finished", "{:.1f}", _of_steps("response_length/generated", statistics.fmean)),
    Column("length_kept", "length kept", "{:.1f}", _share(("tokens", "trained"), ("rollouts", "trained"))),
    Column("reward_before", "reward before", "{:.3f}", _summary("eval", "before", "reward")),
    Column("reward_after", "reward after", "{:.3f}", _summary("eval", "after", "reward"), ranged=True),
    Column("length_before", "length before", "{:.1f}", _summary("eval", "before", "response_length")),
    Column("length_after", "length after", "{:.1f}", _summary("eval", "after", "response_length"), ranged=True),
)
_ONLY_CSV: Final = (
    Column("tokens_stale", "", "", _summary("tokens", "stale")),
    Column("tokens_failed", "", "", _summary("tokens", "failed")),
    Column("tokens_cancelled_shutdown", "", "", _summary("tokens", "cancelled_shutdown")),
    Column("rollouts_generated", "", "", _summary("rollouts", "generated")),
    Column("rollouts_trained", "", "", _summary("rollouts", "trained")),
    Column("staleness_max", "", "", _summary("staleness", "max")),
)


def to_markdown(cells: Sequence[CellResult], note: str) -> str:
    """Return both tables, a row a preset in order of appearance, under a line that says how they were measured."""
    parts = [note, "", *_table(cells, SPEED), "", *_table(cells, LEARNED)]
    if missing := [cell for cell in cells if not cell.done]:
        parts += ["", *(f"- not in the tables: {cell.preset}, seed {cell.seed}: {_why(cell)}" for cell in missing)]
    return "\n".join(parts) + "\n"


def to_csv(cells: Iterable[CellResult]) -> str:
    """Return a line a cell, failed ones included, with every figure unrounded."""
    columns = (*SPEED, *LEARNED, *_ONLY_CSV)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["preset", "seed", "status", *(column.key for column in columns)])
    for cell in cells:
        status = "not run" if cell.summary is None else cell.summary.get("status", "")
        figures = (column.figure(cell) for column in columns)
        writer.writerow([cell.preset, cell.seed, status, *("" if value is None else value for value in figures)])
    return out.getvalue()


def _table(cells: Sequence[CellResult], columns: Sequence[Column]) -> list[str]:
    lines = [
        "| preset | seeds | " + " | ".join(column.title for column in columns) + " |",
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
