"""How a run went so far, in bounded memory: what the sparklines show, and how long the rest will take. Pure.

Fed line by line, as `metrics.jsonl` has them. Invariant: a run of any number of steps takes the same room; the same
lines make the same history, whoever reads them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from darts_async.messages import LEDGER_STATES
from darts_async.runtime.outside_link import EvalLine

__all__ = ["TRENDS", "History", "Trend", "TrendLine", "resampled", "tokens_by_state"]

TRENDS: Final = {
    "reward/mean": "reward",
    "response_length/generated": "length generated",
    "response_length/kept": "length kept",
    "cancelled_share": "cancelled share",
    "staleness/mean": "staleness",
}
"""Name to label, in the order of importance. The share of the candidates of a step that were cancelled is no metric of
its own: it follows from two."""

_POINTS: Final = 256
"""More than a sparkline has room for."""
_PACE_STEPS: Final = 30
_EVALS: Final = 8


class TrendLine(NamedTuple):
    """What is drawn of one figure."""

    points: tuple[float, ...]
    """At least one; the whole run."""
    last: float


def resampled(points: Sequence[float], width: int) -> list[float]:
    """At most so many means of neighbours, all points in them."""
    if len(points) <= width:
        return list(points)
    ends = [index * len(points) // width for index in range(width + 1)]
    return [sum(points[start:end]) / (end - start) for start, end in pairwise(ends)]


class Trend:
    """One figure over all steps: at most so many means, each over equally many steps."""

    __slots__ = ("_count", "_per_point", "_points", "_sum", "last")

    def __init__(self) -> None:
        self.last = math.nan
        """The latest value itself."""
        self._points: list[float] = []
        self._per_point = 1
        self._sum = 0.0
        self._count = 0
        """Steps in the point that is not complete."""

    def add(self, value: float) -> None:
        """The value of the next step."""
        self.last = value
        self._sum += value
        self._count += 1
        if self._count < self._per_point:
            return
        self._points.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self._points) == _POINTS:
            self._points = _halved(self._points)
            self._per_point *= 2

    def line(self) -> TrendLine:
        """The whole run; the last point may be of fewer steps. Something was added."""
        points = [*self._points, self._sum / self._count] if self._count else self._points
        return TrendLine(tuple(points), self.last)


def _halved(points: list[float]) -> list[float]:
    return [(one + other) / 2 for one, other in zip(points[::2], points[1::2], strict=True)]


class History:
    """Of one run, over all its starts."""

    def __init__(self) -> None:
        self.steps = 0
        """That are done, as far as the lines tell."""
        self.wall_s = 0.0
        self.tokens: dict[str, float] = {}
        """As of the last line; see `tokens_by_state`."""
        self.tokens_saved: float | None = None
        self.learner_tokens_per_s: float | None = None
        """In the last step."""
        self.step_s: float | None = None
        self.evals: deque[EvalLine] = deque(maxlen=_EVALS)
        """Those during training."""
        self._trends: dict[str, Trend] = {}
        self._trained_s = 0.0
        self._pace: deque[tuple[float, float]] = deque(maxlen=_PACE_STEPS)
        """Of each of the last steps: how long it took, and the tokens it trained. (Wall time would count the start of
        the engines too, where the run was taken up again.)"""

    def add(self, line: Mapping[str, Any]) -> None:
        """A line of metrics. What is no finite number counts as not there."""
        values: dict[str, float] = {name: value for name, value in line.items() if _is_number(value)}
        if "step" not in values:
            return
        self.steps = max(self.steps, int(values["step"]) + 1)
        self.wall_s = max(self.wall_s, values.get("wall_s", 0.0))
        values["cancelled_share"] = _cancelled_share(values)
        for name in TRENDS:
            if math.isfinite(value := values.get(name, math.nan)):
                self._trends.setdefault(name, Trend()).add(value)
        self.tokens = tokens_by_state(values) or self.tokens
        self.tokens_saved = values.get("cancel/tokens_saved", self.tokens_saved)
        self.step_s = values.get("learner/step_s")
        self._trained_s += self.step_s or 0.0
        tokens = values.get("learner/tokens")
        self.learner_tokens_per_s = tokens / self.step_s if tokens is not None and self.step_s else None
        if self.step_s is not None:
            self._pace.append((self.step_s, tokens or 0.0))
        if {"eval/version", "eval/reward", "eval/response_length"} <= values.keys() and values["eval/version"] >= 0:
            self.evals.append(
                EvalLine(
                    label="during",
                    version=int(values["eval/version"]),
                    reward=values["eval/reward"],
                    response_length=values["eval/response_length"],
                )
            )

    def trends(self) -> dict[str, TrendLine]:
        """By name in `TRENDS`, in its order; those that have a value."""
        return {name: self._trends[name].line() for name in TRENDS if name in self._trends}

    def left_s(self, steps: int, max_wall_s: float | None = None, max_tokens: int | None = None) -> float | None:
        """How long until the first of the limits is reached at the pace of the last steps; None: nothing tells."""
        took_s, tokens = (sum(part) for part in zip(*self._pace, strict=True)) if self._pace else (0.0, 0.0)
        if took_s <= 0 or self.steps >= steps:
            return None
        left_s = took_s / len(self._pace) * (steps - self.steps)
        if max_wall_s is not None:
            left_s = min(left_s, max(max_wall_s - self._trained_s, 0.0))
        if max_tokens is not None and tokens > 0:
            left_s = min(left_s, max(max_tokens - self.tokens.get("trained", 0.0), 0.0) * took_s / tokens)
        return left_s


def tokens_by_state(values: Mapping[str, float]) -> dict[str, float]:
    """What became of the tokens, out of a line of metrics or the selector's gauges."""
    return {state: values[name] for state in LEDGER_STATES if (name := f"tokens/{state}") in values}


def _cancelled_share(values: Mapping[str, float]) -> float:
    """Of the candidates that were planned for the groups of the step; NaN where nothing tells."""
    cancelled = values.get("cancel/rollouts_in_step", math.nan)
    planned = 0.0
    for name, groups in values.items():
        head, _, number = name.partition("/")
        if head == "candidates" and number.isdecimal():
            planned += int(number) * groups
    return min(cancelled / planned, 1.0) if planned else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
