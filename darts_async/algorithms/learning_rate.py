"""The learning rate of a step. Pure: a function of the step's number and the settings, so that a resumed run goes on
where it was without any state of its own.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

__all__ = ["Schedule", "learning_rate"]

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]


def learning_rate(
    step: int,
    *,
    peak: float,
    schedule: Schedule = "constant",
    warmup_steps: int = 0,
    steps: int,
    min_ratio: float = 0.0,
) -> float:
    """Return the rate of a step, counted from 0, in a run of `steps` steps.

    Warm-up: step i < warmup_steps has peak * (i + 1) / warmup_steps, so that no step is spent at rate 0. Then `linear`
    and `cosine` fall from peak towards peak * min_ratio, which step number `steps` would have (the last one is number
    steps - 1). transformers' schedules of these names differ in the warm-up only: theirs begins at rate 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    share = 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (min_ratio + (1.0 - min_ratio) * share)
