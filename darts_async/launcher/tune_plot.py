"""The picture of a search: throughput over waste, staleness as colour, the front and the recommendation marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from darts_async.twin.search_space import Trial, front

__all__ = ["plot"]


def plot(trials: Sequence[Trial], chosen: Trial, path: Path) -> None:
    """Draw it as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    done = [trial.figures for trial in trials if trial.figures is not None]
    best = sorted((f.wasted, f.tokens_per_s) for f in (trial.figures for trial in front(trials)) if f is not None)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    points = axes.scatter(
        [f.wasted for f in done], [f.tokens_per_s for f in done], c=[f.staleness for f in done], cmap="viridis", s=28
    )
    axes.plot([x for x, _ in best], [y for _, y in best], color="0.6", linewidth=1, zorder=0, label="front")
    for trial, marker, label in ((trials[0], "s", "the config as it is"), (chosen, "*", "recommended")):
        if trial.figures is not None:
            at = ([trial.figures.wasted], [trial.figures.tokens_per_s])
            size = 220 if marker == "*" else 90
            axes.scatter(*at, marker=marker, s=size, facecolors="none", edgecolors="crimson", label=label)
    figure.colorbar(points, label="staleness (versions, mean over trained tokens)")
    axes.set_xlabel("share of generated tokens that is not trained on")
    axes.set_ylabel("trained tokens per second")
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))  # type: ignore[no-untyped-call]
