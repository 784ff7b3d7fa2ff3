"""The learner's bookkeeping: what one step came to, and what the run came to. Pure; times are handed in.

Staleness is that of `algorithms.staleness`: versions between the policy about to be updated and a token's own. Its
mean is over tokens, its max over groups, which is the number that the bound holds for. Times are kept as seconds since
training began, over all starts of the learner: what it remembers of them can be restored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from darts_async.algorithms.finished_step import FinishedStep
from darts_async.algorithms.limits import EndedBy
from darts_async.algorithms.staleness import staleness

if TYPE_CHECKING:
    from darts_async.messages import TrainGroup


@dataclass(slots=True)
class _Step:
    """What adds up while a step is open."""

    began_s: float
    """Since training began."""
    group_ids: list[int] = field(default_factory=list)
    num_responses: int = 0
    reward: float = 0.0
    tokens: int = 0
    staleness_tokens: int = 0
    """Sum over tokens of their staleness."""
    staleness_max: int = 0
    wait_s: float = 0.0
    forward_backward_s: float = 0.0
    num_calls: int = 0
    """How often groups were handed to the trainer."""


class TrainingRecord:
    """Sums of the open step and of all finished ones."""

    def __init__(self) -> None:
        self._step = _Step(0.0)
        self._origin_s = 0.0
        """When training began, had this learner been there all the time."""
        self._steady_s: float | None = None
        """End of the first step."""
        self._steady_wait_s = 0.0
        self._end_s = 0.0
        self._wait_s = 0.0
        self._tokens = 0
        self._staleness_tokens = 0
        self._staleness_max = 0
        self._rewards: list[float] = []
        self._lengths: list[float] = []
        self._publish_ms: list[float] = []
        self._parity: dict[str, float] = {}
        self.num_skipped = 0
        self.num_swept = 0
        self.num_groups = 0
        """Groups accepted, in all steps."""
        self.last: FinishedStep | None = None
        """The step that was finished last."""

    @property
    def group_ids(self) -> tuple[int, ...]:
        """Groups of the open step, in order of arrival."""
        return tuple(self._step.group_ids)

    def begin(self, now_s: float) -> None:
        """Training begins: the clock of the first step starts."""
        self._origin_s = now_s - self._end_s

    def restore(self, step: FinishedStep) -> None:
        """Enter a step that an earlier start of the learner finished; all of them in order, before `begin`."""
        self.num_groups += len(step.group_ids)
        self.num_swept = step.num_swept
        self._enter(step)
        self._step = _Step(self._end_s)

    def accept(self, group: TrainGroup, version: int) -> None:
        """A group enters the open step, which updates `version`."""
        step = self._step
        step.group_ids.append(group.group_id)
        step.num_responses += len(group.candidate_ids)
        step.reward += float(group.rewards.sum(dtype=np.float64))
        step.tokens += int(group.lengths.sum())
        step.staleness_tokens += _token_staleness(group, version)
        step.staleness_max = max(step.staleness_max, staleness(version, group.oldest_version))
        self.num_groups += 1

    def waited(self, seconds: float) -> None:
        """The learner had nothing to do for this long."""
        self._step.wait_s += seconds

    def computed(self, seconds: float) -> None:
        """Forward and backward took this long."""
        self._step.forward_backward_s += seconds
        self._step.num_calls += 1

    def finish_step(
        self,
        *,
        now_s: float,
        version: int,
        skipped: bool,
        publish_ms: float,
        trainer: Mapping[str, float],
        ended_by: EndedBy | None = None,
    ) -> dict[str, float]:
        """Close the step that made `version`; return its metrics. Numbers that are not finite are left out."""
        step, end_s = self._step, now_s - self._origin_s
        self._step = _Step(end_s)
        wall_s = end_s - step.began_s
        values = {
            **trainer,
            "learner/step_s": wall_s,
            "learner/wait_s": step.wait_s,
            "learner/forward_backward_s": step.forward_backward_s,
            "learner/calls": float(step.num_calls),
            "learner/publish_ms": publish_ms,
            "learner/idle_ratio": step.wait_s / wall_s if wall_s > 0 else 0.0,
            "learner/skipped_steps": float(self.num_skipped + skipped),
            "reward/kept": step.reward / max(step.num_responses, 1),
            "response_length/kept": step.tokens / max(step.num_responses, 1),
            "staleness/mean": step.staleness_tokens / max(step.tokens, 1),
            "staleness/max": float(step.staleness_max),
            "policy_version": float(version),
        }
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._enter(
            FinishedStep(
                version=version,
                group_ids=tuple(step.group_ids),
                num_responses=step.num_responses,
                tokens=step.tokens,
                reward=step.reward,
                staleness_tokens=step.staleness_tokens,
                staleness_max=step.staleness_max,
                wait_s=step.wait_s,
                elapsed_s=end_s,
                publish_ms=publish_ms,
                skipped=skipped,
                num_swept=self.num_swept,
                ended_by=ended_by or "",
                values=values,
            )
        )
        return values

    def _enter(self, step: FinishedStep) -> None:
        if self._steady_s is None:
            self._steady_s = step.elapsed_s
            self._parity = {
                key: step.values[name]
                for key, name in (("mean", "learner/logprob_diff_mean"), ("max", "learner/logprob_diff_max"))
                if name in step.values
            }
        else:
            self._steady_wait_s += step.wait_s
        self._end_s = step.elapsed_s
        self._wait_s += step.wait_s
        self._tokens += step.tokens
        self._staleness_tokens += step.staleness_tokens
        self._staleness_max = max(self._staleness_max, step.staleness_max)
        self.num_skipped += step.skipped
        self._publish_ms.append(step.publish_ms)
        self._rewards.append(step.reward / max(step.num_responses, 1))
        self._lengths.append(step.tokens / max(step.num_responses, 1))
        self.last = step

    @property
    def trained_tokens(self) -> int:
        """Response tokens of all groups accepted so far, those of the open step included."""
        return self._tokens + self._step.tokens

    def wall_s(self, now_s: float) -> float:
        """Seconds since training began."""
        return now_s - self._origin_s

    @property
    def idle_ratio(self) -> float:
        """Share of the time spent waiting for groups, the first step left out if there is another: it waits for the
        first evaluation and for the first rollouts of the run, which no queue depth can change."""
        if self._steady_s is not None and self._end_s > self._steady_s:
            return self._steady_wait_s / (self._end_s - self._steady_s)
        return self._wait_s / self._end_s if self._end_s > 0 else 0.0

    def summary(self) -> dict[str, float]:
        """The learner's part of `summary.json`, over finished steps. What was never measured is left out."""
        wall_s = self._end_s
        summary = {
            "steps": float(len(self._rewards)),
            "skipped_steps": float(self.num_skipped),
            "swept_groups": float(self.num_swept),
            "trained_tokens": float(self._tokens),
            "wall_s": wall_s,
            "wait_s": self._wait_s,
            "busy_s": wall_s - self._wait_s,
        }
        if self._rewards:
            share = max(1, len(self._rewards) // 10)
            summary |= {
                "idle_ratio": self.idle_ratio,
                "staleness/mean": self._staleness_tokens / max(self._tokens, 1),
                "staleness/max": float(self._staleness_max),
                "publish_ms/p50": float(np.percentile(self._publish_ms, 50)),
                "publish_ms/p99": float(np.percentile(self._publish_ms, 99)),
                "reward_kept/first": float(np.mean(self._rewards[:share])),
                "reward_kept/last": float(np.mean(self._rewards[-share:])),
                "response_length_kept/first": float(np.mean(self._lengths[:share])),
                "response_length_kept/last": float(np.mean(self._lengths[-share:])),
            }
        return summary | {f"logprob_parity/{key}": value for key, value in self._parity.items()}


def _token_staleness(group: TrainGroup, version: int) -> int:
    total = 0
    for spans, length in zip(group.version_spans, group.lengths.tolist(), strict=True):
        bounds = [*(span.start for span in spans), length]
        for span, (start, stop) in zip(spans, pairwise(bounds), strict=True):
            total += staleness(version, span.version) * (stop - start)
    return total
