"""What the groups of the learner's steps looked like: rewards and lengths, per step and over the run's two ends.

Over all finished and scored candidates of the trained groups, kept or not. Cancelled ones have no length to show, so
`response_length/generated` is short of the truth by what was cut; the ledger says how much was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from darts_async.algorithms.group import Candidate

__all__ = ["RunEnds", "StepRecord"]

END_FRACTION = 0.1
"""Share of the steps that `first` and `last` are means over."""


@dataclass(slots=True)
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    def __add__(self, other: _Mean) -> _Mean:
        return _Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


class StepRecord:
    """Sums over the groups of one step."""

    __slots__ = ("kept_length", "kept_reward", "length", "max_length", "rejected_length", "reward")

    def __init__(self) -> None:
        self.reward = _Mean()
        self.kept_reward = _Mean()
        self.length = _Mean()
        self.kept_length = _Mean()
        self.rejected_length = _Mean()
        self.max_length = 0

    def add(self, finished: list[Candidate], kept: tuple[int, ...]) -> None:
        """Enter a trained group: its finished candidates (all scored) and the indices of the kept ones."""
        for candidate in finished:
            if candidate.reward is None:
                raise ValueError(f"candidate {candidate.index} is not scored")
            self.reward.add(candidate.reward)
            self.length.add(candidate.tokens)
            self.max_length = max(self.max_length, candidate.tokens)
            if candidate.index in kept:
                self.kept_reward.add(candidate.reward)
                self.kept_length.add(candidate.tokens)
            else:
                self.rejected_length.add(candidate.tokens)

    def metrics(self) -> dict[str, float]:
        """By metric name; a mean over nothing is left out."""
        values = {
            "reward/mean": self.reward.value,
            "reward/kept": self.kept_reward.value,
            "response_length/generated": self.length.value,
            "response_length/kept": self.kept_length.value,
            "response_length/rejected": self.rejected_length.value,
            "response_length/max": float(self.max_length) if self.length.count else math.nan,
        }
        return {name: value for name, value in values.items() if not math.isnan(value)}


class RunEnds:
    """Remembers two means a step, for `first` and `last` at the end of the run."""

    def __init__(self) -> None:
        self._steps: list[tuple[_Mean, _Mean]] = []

    def add(self, step: StepRecord) -> None:
        """Enter a step, in order."""
        self._steps.append((step.reward, step.length))

    def summary(self) -> dict[str, float]:
        """`reward/first`, `reward/last`, `response_length/first` and `/last`; empty without a step."""
        if not self._steps:
            return {}
        num = max(1, math.ceil(END_FRACTION * len(self._steps)))
        ends = {"first": self._steps[:num], "last": self._steps[-num:]}
        values = {
            f"{name}/{end}": sum((pair[which] for pair in steps), _Mean()).value
            for which, name in enumerate(("reward", "response_length"))
            for end, steps in ends.items()
        }
        return {name: value for name, value in values.items() if not math.isnan(value)}
