"""What the earlier starts of a run have left of its story: lines of metrics, finished steps, evaluations, starts.

Read before a run goes on, while nobody writes any of it. Invariant: what is not whole is not counted: a torn last line
of `metrics.jsonl` is cut off (the learner's journal still has its step).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from darts_async.algorithms.finished_step import FinishedStep
from darts_async.algorithms.ledger_records import EvaluationScored, RunClosed, RunReopened, StepTrained
from darts_async.config.paths import RunPaths
from darts_async.messages import EvalResult
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.runtime.run_starts import Start, read_starts
from darts_async.runtime.step_journal import StepJournal

__all__ = ["RunHistory", "read_history"]

_log = logging.getLogger(__name__)
Line: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class RunHistory:
    """Of one run."""

    lines: dict[int, Line] = field(default_factory=dict)
    """Step to its line in `metrics.jsonl`."""
    finished: list[FinishedStep] = field(default_factory=list)
    """The learner's steps, in order."""
    evals: list[EvalResult] = field(default_factory=list)
    """In order; of each label and version once."""
    closed: RunClosed | None = None
    """The ledger's last record, if it was closed in good order."""
    ledger_version: int = 0
    """Of the last step in the ledger."""
    starts: list[Start] = field(default_factory=list)

    @property
    def version(self) -> int:
        """Of the policy: steps that are done."""
        return self.finished[-1].version if self.finished else 0

    @property
    def owed(self) -> list[FinishedStep]:
        """Steps that were made and have no line."""
        return [step for step in self.finished if step.version - 1 not in self.lines]

    @property
    def is_evaluated(self) -> bool:
        """Whether the held-out set was scored after the last step."""
        return any(found.label == "after" and found.policy_version == self.version for found in self.evals)


def read_history(paths: RunPaths) -> RunHistory:
    """Read it, and cut off what is torn. Raises `RunFailed` (also `LedgerDamaged`), `OSError`."""
    history = RunHistory(lines=_read_lines(paths), starts=read_starts(paths.starts))
    journal = StepJournal(paths.spool)
    try:
        journal.read(history.finished.append)
    finally:
        journal.close()
    if paths.ledger.is_dir():
        _read_ledger(paths, history)
    last_s = max((line.get("wall_s", 0.0) for line in history.lines.values()), default=0.0)
    if (missing_s := last_s - sum(start.wall_s for start in history.starts)) > 0:
        if not history.starts:
            history.starts.append(Start(began_at=0.0))
        history.starts[-1].wall_s += missing_s
    return history


def _read_lines(paths: RunPaths) -> dict[int, Line]:
    lines: dict[int, Line] = {}
    try:
        data = paths.metrics.read_bytes()
    except FileNotFoundError:
        return lines
    good = 0
    decode = msgspec.json.Decoder(Line).decode
    for text in data.splitlines(keepends=True):
        if not text.endswith(b"\n"):
            break
        try:
            line = decode(text)
            lines[int(line["step"])] = line
        except (msgspec.MsgspecError, KeyError):
            break
        good += len(text)
    if good < len(data):
        _log.warning("%s: %d bytes that are no whole line are cut off", paths.metrics, len(data) - good)
        os.truncate(paths.metrics, good)
    return lines


def _read_ledger(paths: RunPaths, history: RunHistory) -> None:
    evals: dict[tuple[str, int], EvalResult] = {}
    for record in LedgerReader(paths.ledger, live=False):
        match record:
            case EvaluationScored():
                evals[record.label, record.version] = EvalResult(
                    label=record.label,
                    policy_version=record.version,
                    reward=record.reward,
                    response_length=record.response_length,
                    num_rollouts=record.num_rollouts,
                )
            case StepTrained():
                history.ledger_version = record.version
            case RunClosed():
                history.closed = record
            case RunReopened():
                history.closed = None
    history.evals = list(evals.values())
