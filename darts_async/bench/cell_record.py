"""What one cell comes to: its run's own files, and the figures that only a comparison needs.

The figures cover the training part alone: from the moment dispatching for training begins (all roles ready and the
held-out set scored) to the last learner step. A run's own `wall_s` and idle ratio include loading and evaluation.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from darts_async import clock
from darts_async.bench.events import CellStep
from darts_async.bench.scores import CheckpointScore
from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.config.rules import warnings
from darts_async.durable import replace_file
from darts_async.messages import Begin, EvalResult, Finished, Message, StepMetrics, Warn
from darts_async.metrics import BusyClock
from darts_async.runtime.record import RunRecord, Status
from darts_async.runtime.run_files import RunFiles
from darts_async.runtime.traces import finish_trace

_log = logging.getLogger(__name__)


class CellRecord:
    """Takes the reports of a run; writes `metrics.jsonl` and `summary.json` as `darts-async up` does."""

    def __init__(self, config: Config, tell: Callable[[CellStep], None], engine_clock: BusyClock) -> None:
        self._config = config
        self._tell = tell
        self._clock = engine_clock
        self._record = RunRecord(warnings=warnings(config))
        self._files = RunFiles(RunPaths.of(config), self._record)
        self._training = False
        self._began = self._last = (0.0, 0.0)
        """Monotonic seconds, and seconds that the engine had been busy by then."""
        self._num_steps = 0
        self._summary: dict[str, Any] = {}

    @property
    def complete(self) -> bool:
        """Whether all steps are trained and evaluated."""
        evaluated = "after" in self._record.evals or not self._config.eval.prompts
        return self._num_steps == self._config.run.steps and evaluated

    def take(self, message: Message, gauges: Mapping[str, float]) -> None:
        """A role reports something."""
        match message:
            case Begin() if not self._config.eval.prompts:
                self._begin()
            case EvalResult():
                self._files.evaluated(message)
                if message.label == "before":
                    self._begin()
            case StepMetrics():
                if "policy_version" in message.values:  # the learner's
                    self._num_steps += 1
                    self._last = self._now()
                values = self._files.step(message, {name: value for name, value in gauges.items() if "/" in name})
                if values is not None:
                    self._tell(CellStep(self._config.run.name, message.step))
            case Warn():
                self._record.warnings.append(f"{message.role}-{message.rank}: {message.text}")
            case Finished():
                self._record.add_finished(message)
            case _:
                pass

    def end(self, status: Status, reason: str = "") -> dict[str, Any]:
        """Write the summary, with the comparison's figures under `bench`; return it."""
        bench: dict[str, float | str] = {"date": dt.datetime.now().astimezone().date().isoformat()}
        wall_s = self._last[0] - self._began[0]
        if self._training and wall_s > 0:
            bench["training_s"] = round(wall_s, 3)
            bench["generator_idle"] = round(1 - (self._last[1] - self._began[1]) / wall_s, 4)
        self._summary = self._files.summarise(status, reason, bench=bench)
        return self._summary

    def scored(self, scores: Sequence[CheckpointScore]) -> None:
        """Behind `end`: add what the cell's checkpoints came to on the held-out prompts."""
        self._summary["bench"]["held_out"] = msgspec.to_builtins(scores)
        text = json.dumps(self._summary, indent=2)
        replace_file(RunPaths.of(self._config).summary, f"{text}\n".encode())

    def close(self) -> None:
        """Close the files, when the run's own are closed; write its trace."""
        self._files.close()
        if problem := finish_trace(RunPaths.of(self._config).root):
            _log.warning("%s", problem)

    def _begin(self) -> None:
        self._training = True
        self._began = self._now()

    def _now(self) -> tuple[float, float]:
        return clock.now_s(), self._clock.read()[0]
