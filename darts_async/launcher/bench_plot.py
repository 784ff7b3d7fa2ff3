"""The picture of a comparison: what became of the tokens, how fast they were trained, and reward over training time.

Means over seeds as bars, every seed as a line. A panel of which nothing was measured is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from darts_async.bench.columns import ALL, CellResult, reward_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]

_TOKENS: Final = (
    ("tokens_trained", "trained", "#2a9d8f"),
    ("tokens_rejected", "rejected", "#e9c46a"),
    ("tokens_cancelled", "cancelled", "#f4a261"),
    ("tokens_other", "other", "#9aa0a6"),
)
_FIGURE: Final = {column.key: column.figure for column in ALL}


def plot(cells: Sequence[CellResult], path: Path) -> bool:
    """Draw it as a PNG; return whether there was anything to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    done = [cell for cell in cells if cell.done]
    if not done:
        return False
    panels: list[Callable[[Axes, Sequence[CellResult]], None]] = [_draw_tokens, _draw_rate]
    if any(len(reward_curve(cell)) > 2 for cell in done):
        panels.append(_draw_reward)
    rows = len({cell.preset for cell in done})
    figure = Figure(figsize=(6 * len(panels), 1.5 + max(3.0, 0.45 * rows)), layout="constrained")
    for index, draw in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), index + 1), done)
    FigureCanvasAgg(figure).print_png(str(path))  # type: ignore[no-untyped-call]
    return True


def _draw_tokens(axes: Axes, cells: Sequence[CellResult]) -> None:
    labels = _labels(cells)
    left = [0.0] * len(labels)
    for key, name, colour in _TOKENS:
        widths = [_mean(cells, label, key) for label in labels]
        axes.barh(labels, widths, left=left, label=name, color=colour)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("tokens generated")
    axes.legend(fontsize="small")


def _draw_rate(axes: Axes, cells: Sequence[CellResult]) -> None:
    labels = _labels(cells)
    axes.barh(labels, [_mean(cells, label, "tokens_per_s") for label in labels], color="0.8")
    for cell in cells:
        if (rate := _FIGURE["tokens_per_s"](cell)) is not None:
            axes.plot([rate], [cell.preset], marker="o", color="0.2", markersize=4)
    axes.invert_yaxis()
    axes.tick_params(labelleft=False)
    axes.set_xlabel("trained tokens per second (a dot a seed)")


def _draw_reward(axes: Axes, cells: Sequence[CellResult]) -> None:
    for number, label in enumerate(_labels(cells)):
        own: dict[str, Any] = {"color": f"C{number % 10}", "linewidth": 1.2, "marker": ".", "label": label}
        for cell in cells:
            if cell.preset == label and (curve := reward_curve(cell)):
                axes.plot([at_s for at_s, _ in curve], [reward for _, reward in curve], **own)
                own["label"] = None
    axes.set_xlabel("training time, s")
    axes.set_ylabel("held-out reward")
    axes.legend(fontsize="small")


def _labels(cells: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(cell.preset for cell in cells))


def _mean(cells: Sequence[CellResult], label: str, key: str) -> float:
    values = [value for cell in cells if cell.preset == label and (value := _FIGURE[key](cell)) is not None]
    return statistics.fmean(values) if values else 0.0
