"""The files of a run that its roles' reports become: `metrics.jsonl` as steps complete, `summary.json` at the end.

Invariant: every step that some role reported has exactly one line, with all that was known of it, also in a run that
was cut off and goes on: steps that were made and have no line get what the learner's journal says of them. The score of
an evaluation during training goes into the first line that is written after it (`eval/version` says of which version it
is); the summary has all of them, and covers all starts of the run.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from darts_async.config.paths import RunPaths
from darts_async.messages import EvalResult, StepMetrics
from darts_async.metrics import JsonlWriter
from darts_async.runtime.record import RunRecord, Status
from darts_async.runtime.run_history import RunHistory
from darts_async.runtime.run_starts import RunStarts

_REPORTS: Final = 2
"""Of a step: the learner's and the selector's."""


class RunFiles:
    """Writes them. The folder exists."""

    def __init__(
        self,
        paths: RunPaths,
        record: RunRecord,
        history: RunHistory | None = None,
        also: Callable[[Mapping[str, float]], None] = lambda _: None,
    ) -> None:
        """`history`: of a run that goes on. `also` gets every line that is written, the numbers that are finite."""
        self._paths = paths
        self._record = record
        self._also = also
        self._metrics = JsonlWriter(paths.metrics)
        history = history or RunHistory()
        self._starts = RunStarts(paths.starts, history.starts, steps=history.version)
        self._reports: dict[int, set[bool]] = {}
        """Of each step, who has reported it: the learner (True), the selector."""
        self._open: set[int] = set()
        """Steps that not everybody has reported."""
        self._cancelled = 0.0
        self._evals: deque[EvalResult] = deque()
        """Scores that have no line yet: one a line."""
        self._restore(history)

    def _restore(self, history: RunHistory) -> None:
        for step, line in history.lines.items():
            self._record.add_step(StepMetrics(step=step, values={"policy_version": line.get("policy_version", 0.0)}))
            self._reports[step] = {True, False}
            self._cancelled = max(self._cancelled, line.get("cancel/rollouts", 0.0))
        for finished in history.owed:
            self.step(StepMetrics(step=finished.version - 1, values=finished.values), {})
        written = {line.get("eval/version") for line in history.lines.values()}
        for result in history.evals:
            self._record.add_eval(result)
            if result.label == "during" and result.policy_version not in written:
                self._evals.append(result)

    def step(self, report: StepMetrics, gauges: Mapping[str, float]) -> dict[str, float] | None:
        """Enter a report; return the step's values once it is complete and its line written, else None."""
        seen = self._reports.setdefault(report.step, set())
        is_learners = "policy_version" in report.values
        if is_learners in seen:
            return None  # a learner that was started anew repeats its last report
        seen.add(is_learners)
        values = self._record.add_step(report)
        if len(seen) < _REPORTS:
            self._open.add(report.step)
            return None
        self._open.remove(report.step)
        self._owed(report.step)  # each role reports in order: no more will be known of earlier ones
        return self._line(report.step, values, gauges)

    def evaluated(self, result: EvalResult) -> bool:
        """Enter the scores of the held-out set; return False when they are here already: an allocator that was started
        anew repeats them."""
        record = self._record
        if any(_is_same(result, known) for known in (*record.evals_during, *record.evals.values())):
            return False
        is_new = all(found.policy_version != result.policy_version for found in record.evals_during)
        record.add_eval(result)
        if result.label == "during" and is_new:
            self._evals.append(result)
        return True

    def beat(self) -> None:
        """Write down how long the run has lasted. Raises `OSError`."""
        self._starts.beat(self._record.restarts)

    def summarise(self, status: Status, reason: str = "", **extra: Any) -> dict[str, Any]:
        """Write the lines that are still owed and the summary; return the summary."""
        self._owed(None)
        summary = self._record.summary(status=status, wall_s=self._starts.wall_s, reason=reason)
        summary["restarts"] = self._starts.restarts(self._record.restarts)
        summary["resumes"] = self._starts.num_resumes
        summary |= extra
        self._paths.summary.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
        self._starts.beat(self._record.restarts, status)
        return summary

    def close(self) -> None:
        """Close the metrics file."""
        self._metrics.close()

    def _owed(self, before: int | None) -> None:
        """Write the lines of steps that not everybody has reported; None: of all."""
        for step in sorted(step for step in self._open if before is None or step < before):
            self._line(step, self._record.steps[step], {})
            self._reports[step] = {True, False}
            self._open.remove(step)

    def _line(self, step: int, values: dict[str, float], gauges: Mapping[str, float]) -> dict[str, float]:
        if (cancelled := values.get("cancel/rollouts")) is not None:
            values["cancel/rollouts_in_step"] = cancelled - self._cancelled
            self._cancelled = cancelled
        if self._evals:
            values |= _eval_values(self._evals.popleft())
        line = {"step": step, "wall_s": self._starts.wall_s, **gauges, **values}
        self._metrics.write(line)
        self._also({name: value for name, value in line.items() if math.isfinite(value)})
        return line


def _is_same(one: EvalResult, other: EvalResult) -> bool:
    return (one.label, one.policy_version, one.reward) == (other.label, other.policy_version, other.reward)


def _eval_values(result: EvalResult) -> dict[str, float]:
    values = {
        "eval/version": float(result.policy_version),
        "eval/reward": result.reward,
        "eval/response_length": result.response_length,
        "eval/rollouts": float(result.num_rollouts),
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}
