"""A run from its plan to its summary, with whoever watches it: what `up` and `darts_async.run` have in common.

Invariant: a plan that cannot be begun leaves no lock taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from darts_async.config.rules import warnings
from darts_async.launcher.preflight import Plan, create_run_folder
from darts_async.launcher.resume import prepare_run_folder
from darts_async.launcher.roles import RoleProcess
from darts_async.launcher.supervisor import launch
from darts_async.launcher.view import watching
from darts_async.messages import EvalResult
from darts_async.runtime.outside_link import StatusAnswer

__all__ = ["SilentView", "carry_out"]


async def carry_out(plan: Plan, console: Console | None, *, signals: bool = True) -> dict[str, Any]:
    """Make the run folder, or get it ready to go on; run; return the summary.

    `console`: where a person watches; None: nobody does. `signals`: see `launch`. Raises `ConfigError` when the file
    system refuses the folder.
    """
    try:
        (create_run_folder if plan.history is None else prepare_run_folder)(plan)
    except BaseException:
        if plan.lock is not None:
            plan.lock.release()
        raise
    if console is not None:
        _say(console, f"run folder: {plan.paths.root}", *(f"warning: {text}" for text in warnings(plan.config)))
    with contextlib.nullcontext(SilentView()) if console is None else watching(plan, console) as view:
        summary = await launch(plan, view, signals=signals)
    if console is not None:
        _say(console, *_summary_lines(plan, summary))
    return summary


class SilentView:
    """For nobody: what happens is in the run folder."""

    def attached(self, look: Callable[[], StatusAnswer]) -> None:
        """Nothing."""

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        """Nothing."""

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        """Nothing."""

    def ready(self, role: RoleProcess) -> None:
        """Nothing."""

    def begun(self) -> None:
        """Nothing."""

    def refresh(self) -> None:
        """Nothing."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def evaluated(self, result: EvalResult) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def _summary_lines(plan: Plan, summary: Mapping[str, Any]) -> list[str]:
    lines = [f"{summary['status']}: {summary['steps']} steps in {summary['wall_s']:.0f} s"]
    if "reason" in summary and summary["status"] == "failed":
        lines.append(f"  {summary['reason']}")
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    if before and after:
        lines.append(
            f"  held-out reward {before['reward']:.3f} -> {after['reward']:.3f}, "
            f"mean length {before['response_length']:.1f} -> {after['response_length']:.1f} tokens"
        )
    rollouts, saved = summary["rollouts"], summary["tokens_saved_estimate"]
    if rollouts["generated"]:
        lines.append(
            f"  {rollouts['generated']} candidates: {rollouts['trained']} trained, {rollouts['rejected']} rejected, "
            f"{rollouts['cancelled_tail']} cancelled in the engine (about {saved or 0} tokens saved)"
        )
    lines.append(f"  summary: {plan.paths.summary}")
    if summary["status"] != "done":
        lines.append(f"  go on with it: darts-async up --resume {plan.paths.root}")
    else:
        lines.append(f"  checkpoint: {_last_checkpoint(plan, summary)}")
    return lines


def _last_checkpoint(plan: Plan, summary: Mapping[str, Any]) -> Path:
    return plan.paths.checkpoints / f"step_{summary['policy_version']}"


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
