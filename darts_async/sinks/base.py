"""The contract between a run and whoever takes its metrics.

A sink lives in a thread of its own, which makes it, calls it and closes it: it may block, and it may raise. What it
must not do is print, prompt or touch signals: the terminal belongs to the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from darts_async.config.paths import RunPaths
from darts_async.messages import EvalResult

__all__ = ["MakeSink", "Sink", "SinkRun"]


@dataclass(frozen=True, slots=True)
class SinkRun:
    """The run that a sink is for."""

    name: str
    root: Path
    """The run folder. It exists."""
    config: Mapping[str, Any]
    """As it runs, by section, every default filled in; made of what JSON has."""
    first_step: int = 0
    """Of this start: other than 0 where a run goes on that was cut off. What the sink wrote before is to be added to,
    not replaced."""

    @property
    def logs(self) -> Path:
        """Folder of the run's logs."""
        return RunPaths(self.root).logs


class Sink(Protocol):
    """Takes metrics. One that inherits from this need only define what it cares for."""

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """A learner step is complete: the same names and values as in its line of `metrics.jsonl`; `wall_s` is the
        time since the run began. Steps come in order and each comes once."""

    def evaluated(self, result: EvalResult) -> None:
        """The held-out set was scored, before, during or after training."""

    def ended(self, summary: Mapping[str, Any]) -> None:
        """The run is over: what is in `summary.json`."""

    def close(self) -> None:
        """Nothing more comes. Write what is left, and leave no process behind."""


MakeSink: TypeAlias = Callable[[SinkRun], Sink]
