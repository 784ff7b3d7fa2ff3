"""What the learner reports of a finished step. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from darts_async.engines.token_sums import TokenSums


@dataclass(frozen=True, slots=True)
class StepStats:
    """One finished step."""

    version: int
    """The policy version that the step made."""
    skipped: bool
    """A loss or gradient was not finite and its update left out: with one update a step, the weights are those of the
    version before."""
    grad_norm: float
    """Norm of the mean gradient before clipping; mean over the step's updates. Not finite when one was."""
    lr: float
    sums: TokenSums
    """Of all the step's updates and processes."""
    observed: dict[str, float] = field(default_factory=dict)
    """Metrics of the shadows, the curves by age and the frozen policies."""
