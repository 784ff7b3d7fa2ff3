"""What a run came to, real or on a twin, in the figures that one tunes for. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Figures", "figures_of", "mean_of"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting came to."""

    tokens_per_s: float
    """Trained tokens over the time from the first dispatch to the last step."""
    staleness: float
    """Versions, mean over trained tokens."""
    wasted: float
    """Share of the generated tokens that is not trained on."""
    step_s: float
    """Median over the steps."""
    generator_idle: float
    learner_idle: float
    cancelled: float
    """Share of the candidates."""


def mean_of(runs: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over runs of one setting; at least one."""
    means = {name: statistics.fmean(getattr(run, name) for run in runs) for name in Figures.__struct_fields__}
    return Figures(**means)


def figures_of(summary: Mapping[str, Any], lines: Sequence[Mapping[str, float]]) -> Figures:
    """Return a finished run's figures; the first step, which waits for the first responses, is left out of rates."""
    first, last = lines[0], lines[-1]
    trained = last["tokens/trained"] - first["tokens/trained"]
    tokens = summary["tokens"]
    return Figures(
        tokens_per_s=trained / max(last["wall_s"] - first["wall_s"], 1e-9),
        staleness=summary["staleness"]["mean"] or 0.0,
        wasted=1.0 - tokens["trained"] / max(tokens["generated"], 1),
        step_s=statistics.median(line["learner/step_s"] for line in lines[1:]),
        generator_idle=summary["idle_ratio"]["generator"] or 0.0,
        learner_idle=summary["idle_ratio"]["learner"] or 0.0,
        cancelled=summary["rollouts"]["cancelled_tail"] / max(summary["rollouts"]["generated"], 1),
    )
