"""What a report is made of: plain data out of run folders, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from darts_async.report.config_rows import ConfigRow
from darts_async.report.ledger_story import LedgerStory
from darts_async.report.step_lines import StepSeries
from darts_async.report.summary import Summary
from darts_async.report.timeline import Timeline
from darts_async.runtime.run_starts import Start

__all__ = ["HeldOut", "ReportData", "RunData", "RunState"]

RunState = Literal["running", "done", "failed", "interrupted", "cut off", "not begun"]


class HeldOut(NamedTuple):
    """A score of the held-out set."""

    label: str
    version: int
    reward: float
    response_length: float


@dataclass(slots=True)
class RunData:
    """One run. What could not be read is empty or None, and `missing` says why."""

    folder: Path
    name: str
    letter: str = ""
    """How charts of several runs call it; empty when it is the only one."""
    state: RunState = "not begun"
    summary: Summary | None = None
    series: StepSeries = field(default_factory=StepSeries)
    story: LedgerStory | None = None
    timeline: Timeline = field(default_factory=Timeline)
    held_out: list[HeldOut] = field(default_factory=list)
    """By version."""
    config: dict[str, Any] | None = None
    starts: list[Start] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What the report lacks, and why, a sentence each."""

    @property
    def num_steps(self) -> int:
        """Learner steps that are known of."""
        by_ledger = self.story.version if self.story is not None else 0
        return max(by_ledger, int(self.series.step[-1]) if self.series.num_steps else 0)

    @property
    def wall_s(self) -> float:
        """How long it lasted, or has lasted so far."""
        measured = [sum(start.wall_s for start in self.starts)]
        measured += [self.summary.wall_s or 0.0] if self.summary else []
        measured += [float(self.series.wall_s[-1])] if self.series.num_steps else []
        return max(measured)


@dataclass(slots=True)
class ReportData:
    """All runs of a report."""

    runs: list[RunData]
    config: list[ConfigRow] = field(default_factory=list)
