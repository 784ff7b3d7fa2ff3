"""The picture of a run that is over, from what it has left in its folder. Reads only.

What cannot be read is left out.
"""

from __future__ import annotations

import contextlib
import tomllib
from dataclasses import replace
from typing import Final, Literal

import msgspec
from rich.console import Console

from darts_async.config.paths import RunPaths
from darts_async.launcher.run_end import RunEnd
from darts_async.launcher.view.glyphs import Glyphs
from darts_async.launcher.view.history import History
from darts_async.launcher.view.picture import draw
from darts_async.launcher.view.snapshot import Snapshot, State
from darts_async.messages import LEDGER_STATES
from darts_async.runtime.outside_link import EvalLine
from darts_async.runtime.run_starts import read_starts

__all__ = ["of_folder", "print_picture"]

_STATES: Final[dict[str, State]] = {"done": "done", "failed": "failed", "interrupted": "interrupted"}
_DURING: Final = "during"
_WARNINGS: Final = 10
_ROWS: Final = 1000
"""Nothing is left out for want of room."""


class _Scores(msgspec.Struct):
    """As in the summary."""

    reward: float | None = None
    response_length: float | None = None
    policy_version: int = 0


class _Evals(msgspec.Struct):
    before: _Scores | None = None
    after: _Scores | None = None
    during: list[_Scores] = []


class _Summary(msgspec.Struct):
    """The part of it that a picture shows."""

    policy_version: int
    wall_s: float
    tokens: dict[str, float | None] = {}
    tokens_saved_estimate: float | None = None
    eval: _Evals = msgspec.field(default_factory=_Evals)
    warnings: list[str] = []


def of_folder(paths: RunPaths, history: History) -> Snapshot:
    """`history`: of its metrics."""
    end = RunEnd.of(paths)
    summary = None
    if end.status is not None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            summary = msgspec.json.decode(paths.summary.read_bytes(), type=_Summary)
    lasted_s = sum(start.wall_s for start in read_starts(paths.starts))
    gone: State = "not begun" if end.at_s is None else "killed"
    left = Snapshot(
        run=paths.root.name,
        state=_STATES.get(end.status or "", gone),
        step=history.steps,
        steps=_steps(paths) or history.steps,
        wall_s=max(lasted_s, history.wall_s),
        trends=history.trends(),
        evals=tuple(history.evals),
        tokens=history.tokens,
        tokens_saved=history.tokens_saved,
        alarms=(f"why: {end.reason}",) if end.reason and end.status == "failed" else (),
    )
    if summary is None:
        return left
    tokens = {state: summary.tokens.get(state) for state in LEDGER_STATES}
    return replace(
        left,
        step=summary.policy_version,
        wall_s=summary.wall_s,
        evals=_evals(summary.eval),
        tokens={state: count for state, count in tokens.items() if count is not None},
        tokens_saved=summary.tokens_saved_estimate,
        warnings=tuple(summary.warnings[-_WARNINGS:]),
    )


def print_picture(console: Console, snapshot: Snapshot, glyphs: Glyphs) -> None:
    """Once, below what is there."""
    for row in draw(snapshot, console.width, _ROWS, glyphs):
        console.print(row, no_wrap=True, overflow="ignore", crop=False)


def _steps(paths: RunPaths) -> int:
    """`run.steps`, or 0."""
    try:
        return max(int(tomllib.loads(paths.resolved_config.read_text("utf-8"))["run"]["steps"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _evals(evals: _Evals) -> tuple[EvalLine, ...]:
    labelled: list[tuple[Literal["before", "during", "after"], _Scores | None]] = [
        ("before", evals.before),
        *((_DURING, one) for one in evals.during),
        ("after", evals.after),
    ]
    return tuple(
        EvalLine(label=label, version=one.policy_version, reward=one.reward, response_length=one.response_length)
        for label, one in labelled
        if one is not None and one.reward is not None and one.response_length is not None
    )
