"""The files of a run that its roles' reports become: `metrics.jsonl` as steps complete, `summary.json` at the end.

Invariant: every step that some role reported has exactly one line, with all that was known of it. The score of an
evaluation during training goes into the first line that is written after it (`eval/version` says of which version it
is); the summary has all of them.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from darts_async import clock
from darts_async.config.paths import RunPaths
from darts_async.messages import EvalResult, StepMetrics
from darts_async.metrics import JsonlWriter
from darts_async.runtime.record import RunRecord, Status

_REPORTS: Final = 2
"""Of a step: the learner's and the selector's."""


class RunFiles:
    """Writes them. The folder exists."""

    def __init__(self, paths: RunPaths, record: RunRecord) -> None:
        self._paths = paths
        self._record = record
        self._metrics = JsonlWriter(paths.metrics)
        self._started_s = clock.now_s()
        self._reports: dict[int, set[bool]] = {}
        """Of each step, who has reported it: the learner (True), the selector."""
        self._cancelled = 0.0
        self._evals: deque[EvalResult] = deque()
        """Scores that have no line yet: one a line."""

    def step(self, report: StepMetrics, gauges: Mapping[str, float]) -> dict[str, float] | None:
        """Enter a report; return the step's values once it is complete and its line written, else None."""
        seen = self._reports.setdefault(report.step, set())
        is_learners = "policy_version" in report.values
        if is_learners in seen:
            return None  # a learner that was started anew repeats its last report
        seen.add(is_learners)
        values = self._record.add_step(report)
        return self._line(report.step, values, gauges) if len(seen) == _REPORTS else None

    def evaluated(self, result: EvalResult) -> None:
        """Enter the scores of the held-out set."""
        self._record.add_eval(result)
        if result.label == "during":
            self._evals.append(result)

    def summarise(self, status: Status, reason: str = "", **extra: Any) -> dict[str, Any]:
        """Write the lines that are still owed and the summary; return the summary."""
        for step, values in sorted(self._record.steps.items()):
            if len(self._reports.get(step, ())) < _REPORTS:
                self._line(step, values, {})
                self._reports[step] = {True, False}
        wall_s = clock.now_s() - self._started_s
        summary = self._record.summary(status=status, wall_s=wall_s, reason=reason) | extra
        self._paths.summary.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
        return summary

    def close(self) -> None:
        """Close the metrics file."""
        self._metrics.close()

    def _line(self, step: int, values: dict[str, float], gauges: Mapping[str, float]) -> dict[str, float]:
        if (cancelled := values.get("cancel/rollouts")) is not None:
            values["cancel/rollouts_in_step"] = cancelled - self._cancelled
            self._cancelled = cancelled
        if self._evals:
            values |= _eval_values(self._evals.popleft())
        self._metrics.write({"step": step, "wall_s": clock.now_s() - self._started_s, **gauges, **values})
        return {**gauges, **values}


def _eval_values(result: EvalResult) -> dict[str, float]:
    values = {
        "eval/version": float(result.policy_version),
        "eval/reward": result.reward,
        "eval/response_length": result.response_length,
        "eval/rollouts": float(result.num_rollouts),
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}
