"""`metrics.jsonl` read once, from the first line to the last, into at most `MAX_POINTS` points a metric.

A point is the mean over its steps of the values that were reported; of a maximum or a high percentile it is the
largest. A line that is no JSON object of a step is counted and left out; an unfinished last one (a run that is going
on, or was cut off) is no fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from darts_async.report.slices import Slices

__all__ = ["AgeTotals", "StepSeries", "read_steps"]

MAX_POINTS: Final = 600
MAX_METRICS: Final = 512
"""Names beyond this many are not followed."""
MAX_AGES: Final = 256
MAX_LINE_BYTES: Final = 1 << 20
_LARGEST: Final = re.compile(r".*(/max|_max|_max_s|p99_ms|p99_s)")
"""Metrics that are not averaged."""
_AGE: Final = re.compile(r"age/(\d{1,9})/(tokens|kl|log_ratio_abs)")
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class AgeTotals:
    """All trained tokens of one age (versions behind), over the run."""

    tokens: float = 0.0
    log_ratio_abs: float = 0.0
    """Sum over tokens."""


@dataclass(slots=True)
class StepSeries:
    """What the steps of a run report, thinned."""

    columns: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Metric to a value a point; NaN where it was not reported."""
    step: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Policy version after the last step of each point: 1 is the first step."""
    wall_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    steps_per_point: int = 1
    num_steps: int = 0
    """Lines that were read."""
    last: dict[str, float] = field(default_factory=dict)
    """The last line."""
    ages: dict[int, AgeTotals] = field(default_factory=dict)
    began_s: float = 0.0
    """When the first step that is known of began."""
    num_bad_lines: int = 0
    torn: bool = False
    """The last line is unfinished."""

    def column(self, name: str) -> npt.NDArray[np.float64] | None:
        """Return a metric's points; None when no step reported it."""
        return self.columns.get(name)


class _Point:
    """Sums over the steps of one point."""

    __slots__ = ("last_step", "sums", "wall_s")

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}
        self.last_step = 0
        self.wall_s = 0.0

    def add(self, line: dict[str, Any]) -> None:
        self.last_step, self.wall_s = max(self.last_step, line["step"]), max(self.wall_s, line["wall_s"])
        for name, value in line.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._enter(name, float(value), 1)

    def merge(self, other: _Point) -> None:
        self.last_step, self.wall_s = max(self.last_step, other.last_step), max(self.wall_s, other.wall_s)
        for name, (total, count) in other.sums.items():
            self._enter(name, total, count)

    def _enter(self, name: str, value: float, count: int) -> None:
        if (known := self.sums.get(name)) is None:
            if len(self.sums) < MAX_METRICS:
                self.sums[name] = (value, count)
        elif _LARGEST.fullmatch(name):
            self.sums[name] = (max(known[0], value), 1)
        else:
            self.sums[name] = (known[0] + value, known[1] + count)

    def value(self, name: str) -> float:
        total, count = self.sums.get(name, (math.nan, 1))
        return total / count


def read_steps(path: Path, max_points: int = MAX_POINTS) -> StepSeries:
    """Read the file. Raises `OSError` (`FileNotFoundError` when there is none)."""
    series, points = StepSeries(), Slices(_Point, most=max_points)
    names: dict[str, None] = {}
    for line in _lines(path, series):
        points.at(line["step"]).add(line)
        if not series.num_steps:
            series.began_s = max(0.0, line["wall_s"] - _seconds(line.get("learner/step_s")))
        series.num_steps += 1
        series.last = {name: value for name, value in line.items() if isinstance(value, int | float)}
        _add_ages(series.ages, series.last)
        if len(names) < MAX_METRICS:
            names |= dict.fromkeys(series.last)
    found = [point for _, point in points]
    series.steps_per_point = int(points.width)
    series.step = np.array([point.last_step + 1 for point in found], dtype=np.float64)
    series.wall_s = np.array([point.wall_s for point in found], dtype=np.float64)
    series.columns = {name: np.array([point.value(name) for point in found]) for name in names}
    return series


def _lines(path: Path, series: StepSeries) -> Iterator[dict[str, Any]]:
    """The lines that are steps. Faults are counted in `series`."""
    with path.open("rb") as file:
        while text := file.readline(MAX_LINE_BYTES):
            try:
                line = _decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                line = {}
            step, wall_s = line.get("step"), line.get("wall_s")
            if isinstance(step, int) and step >= 0 and isinstance(wall_s, int | float) and math.isfinite(wall_s):
                yield line
            elif text.endswith(b"\n") or len(text) == MAX_LINE_BYTES:
                series.num_bad_lines += 1
            else:
                series.torn = True


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _add_ages(ages: dict[int, AgeTotals], line: dict[str, float]) -> None:
    for name, tokens in line.items():
        match = _AGE.fullmatch(name)
        if match is None or match[2] != "tokens":
            continue
        age = int(match[1])
        if age not in ages and len(ages) >= MAX_AGES:
            continue
        totals = ages.setdefault(age, AgeTotals())
        totals.tokens += tokens
        totals.log_ratio_abs += tokens * line.get(f"age/{age}/log_ratio_abs", 0.0)
