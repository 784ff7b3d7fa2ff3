"""What the groups of a step looked like and what selection did to them, and the run's two ends.

Over the groups that the step trained and those that were rejected since the step before (a group without a signal that
was dropped is part of what was generated). Means are over finished and scored candidates, kept or not. Cancelled ones
have no length of their own; their tokens so far stand beside the others. `response_length/generated` is short of the
truth by what was cut; the ledger says how much was.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from darts_async.algorithms.group import Candidate

__all__ = ["Mean", "RunEnds", "StepRecord"]

CORRECT = 0.5
"""A reward above it counts as a correct answer."""

END_FRACTION = 0.1
"""Share of the steps that `first` and `last` are means over."""


@dataclass(slots=True)
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Enter a value."""
        self.total += value
        self.count += 1

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """NaN over nothing."""
        return self.total / self.count if self.count else math.nan


class StepRecord:
    """Sums over the groups of one step."""

    __slots__ = (
        "_max_wait_s",
        "_num_mixed",
        "_num_patterns",
        "_num_rejected",
        "_num_rescued",
        "_num_sampled",
        "_num_zero_variance",
        "_wait_s",
        "cancelled_length",
        "components",
        "kept_length",
        "kept_reward",
        "length",
        "max_length",
        "rejected_length",
        "rejected_reward",
        "reward",
    )

    def __init__(self) -> None:
        self.reward = Mean()
        self.kept_reward = Mean()
        self.rejected_reward = Mean()
        self.components: dict[str, Mean] = {}
        """Of the reward, by name."""
        self.length = Mean()
        self.kept_length = Mean()
        self.rejected_length = Mean()
        self.cancelled_length = Mean()
        self.max_length = 0
        self._num_sampled: Counter[int] = Counter()
        """Groups by the number of candidates that were planned for them (M)."""
        self._num_mixed = 0
        self._num_patterns = [0, 0]
        self._num_zero_variance = 0
        self._num_rescued = 0
        self._num_rejected = 0
        self._wait_s = Mean()
        self._max_wait_s = 0.0

    def add(
        self,
        finished: Sequence[Candidate],
        kept: tuple[int, ...],
        *,
        cancelled: Sequence[Candidate] = (),
        num_sampled: int | None = None,
        zero_variance: bool = False,
        rescued: bool = False,
        last_pick_wait_s: float | None = None,
    ) -> None:
        """Enter a group: its finished candidates (all scored) and the indices of the kept ones (none: rejected).

        num_sampled: M, replacements not counted. zero_variance: its picks had equal rewards. rescued: one was swapped
        for that. last_pick_wait_s: from the event at which all picks but one had finished to the group's completion.
        """
        for candidate in finished:
            if candidate.reward is None:
                raise ValueError(f"candidate {candidate.index} is not scored")
            self.reward.add(candidate.reward)
            for name, value in (candidate.components or {}).items():
                self.components.setdefault(name, Mean()).add(value)
            self.length.add(candidate.tokens)
            self.max_length = max(self.max_length, candidate.tokens)
            is_kept = candidate.index in kept
            (self.kept_reward if is_kept else self.rejected_reward).add(candidate.reward)
            (self.kept_length if is_kept else self.rejected_length).add(candidate.tokens)
        for candidate in cancelled:
            self.cancelled_length.add(candidate.tokens)
        self._num_sampled[len(finished) + len(cancelled) if num_sampled is None else num_sampled] += 1
        self._num_zero_variance += zero_variance
        self._num_rescued += rescued
        self._num_rejected += not kept
        if last_pick_wait_s is not None:
            self._wait_s.add(last_pick_wait_s)
            self._max_wait_s = max(self._max_wait_s, last_pick_wait_s)
        self._add_pattern(finished)

    def metrics(self) -> dict[str, float]:
        """By metric name; a mean over nothing is left out."""
        groups, mixed = self._num_sampled.total(), self._num_mixed
        values = {
            "reward/mean": self.reward.value,
            "reward/kept": self.kept_reward.value,
            "reward/rejected": self.rejected_reward.value,
            "response_length/generated": self.length.value,
            "response_length/kept": self.kept_length.value,
            "response_length/rejected": self.rejected_length.value,
            "response_length/cancelled": self.cancelled_length.value,
            "response_length/max": float(self.max_length) if self.length.count else math.nan,
            "selection/rejected_groups": self._num_rejected if groups else math.nan,
            "selection/zero_variance_share": _share(self._num_zero_variance, groups),
            "selection/rescued_share": _share(self._num_rescued, groups),
            "selection/mixed_share": _share(mixed, groups),
            "selection/pattern_i_share": _share(self._num_patterns[0], mixed),
            "selection/pattern_ii_share": _share(self._num_patterns[1], mixed),
            "selection/last_pick_wait_s": self._wait_s.value,
            "selection/last_pick_wait_max_s": self._max_wait_s if self._wait_s.count else math.nan,
        }
        values |= {f"reward/component/{name}": mean.value for name, mean in sorted(self.components.items())}
        values |= {f"candidates/{num}": count for num, count in sorted(self._num_sampled.items())}
        return {name: float(value) for name, value in values.items() if not math.isnan(value)}

    def _add_pattern(self, finished: Sequence[Candidate]) -> None:
        """Pattern I of the paper: correct answers are the shorter ones in the mean; pattern II: the longer ones."""
        right, wrong = Mean(), Mean()
        for candidate in finished:
            (right if (candidate.reward or 0.0) > CORRECT else wrong).add(candidate.tokens)
        if right.count and wrong.count:
            self._num_mixed += 1
            self._num_patterns[0] += right.value < wrong.value
            self._num_patterns[1] += right.value > wrong.value


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


class RunEnds:
    """Remembers two means a step, for `first` and `last` at the end of the run."""

    def __init__(self) -> None:
        self._steps: list[tuple[Mean, Mean]] = []

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
            f"{name}/{end}": sum((pair[which] for pair in steps), Mean()).value
            for which, name in enumerate(("reward", "response_length"))
            for end, steps in ends.items()
        }
        return {name: value for name, value in values.items() if not math.isnan(value)}
