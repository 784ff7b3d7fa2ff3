"""What `darts-async chaos` shows and how it ends: the table of faults, the audit of the ledger, the exit status."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Sequence

import uvloop
from rich.console import Console
from rich.table import Table

from darts_async.algorithms.chaos_schedule import ChaosPlan, Fault, make_schedule
from darts_async.config.rules import warnings
from darts_async.launcher import replay
from darts_async.launcher.chaos import ChaosResult, Outcome, run_chaos
from darts_async.launcher.preflight import Plan, create_run_folder
from darts_async.launcher.view import watching

__all__ = ["chaos", "outcome_table", "recovery_table"]


def chaos(plan: Plan, wanted: ChaosPlan, *, recover_s: float) -> int:
    """Run it and print what came of it; return the exit status. Raises `ConfigError`."""
    console = Console()
    schedule = make_schedule(wanted, plan.config.generator.replicas)
    create_run_folder(plan)
    _line(console, f"run folder: {plan.paths.root}")
    for text in warnings(plan.config):
        _line(console, f"warning: {text}")
    _line(console, f"{len(schedule)} faults (seed {wanted.seed}): {_spell(schedule)}")
    result = _run(plan, schedule, wanted, recover_s, console)
    audit = replay.replay(plan.paths.root, Console(stderr=True))
    found = json.dumps(result.as_json(audit.violations), indent=2)
    (plan.paths.root / "chaos.json").write_text(found + "\n", "utf-8")
    console.print(outcome_table(result.outcomes))
    console.print(recovery_table(result))
    for text in result.problems:
        _line(console, f"not fine: {text}")
    for text in audit.violations:
        _line(console, f"violation: {text}")
    _line(console, replay.verdict(audit))
    _line(console, _verdict(result, audit.num_violations))
    if result.summary["status"] == "interrupted" and not result.gave_up:
        return 130
    return 1 if result.problems or audit.num_violations else 0


def _run(plan: Plan, schedule: Sequence[Fault], wanted: ChaosPlan, recover_s: float, console: Console) -> ChaosResult:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, watching(plan, console) as view:
        return runner.run(run_chaos(plan, view, schedule, recover_s=recover_s, overlap=wanted.overlap))


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """A row a fault, in the order in which they came."""
    table = Table(box=None, pad_edge=False)
    for title in ("fault", "role", "at s", "lasts s", "ready again s", "trained again s"):
        table.add_column(title, justify="left" if title in {"fault", "role"} else "right")
    table.add_column("", overflow="fold")
    for outcome in outcomes:
        fault = outcome.fault
        table.add_row(
            fault.kind,
            fault.target,
            _seconds(outcome.at_s),
            f"{fault.lasts_s:g}" if fault.lasts_s else "",
            _seconds(outcome.back_s),
            _seconds(outcome.trained_s),
            outcome.note or ("not carried out" if outcome.at_s is None else ""),
        )
    return table


def recovery_table(result: ChaosResult) -> Table:
    """A row a role and kind of fault: how long it takes until the run trains again."""
    table = Table(box=None, pad_edge=False)
    for title in ("fault", "recovered from", "median s", "worst s"):
        table.add_column(title, justify="left" if title == "fault" else "right")
    for name, found in result.recovery.items():
        table.add_row(name, f"{found.recovered} of {found.faults}", _seconds(found.median), _seconds(found.worst))
    return table


def _verdict(result: ChaosResult, violations: int) -> str:
    recoveries = result.recoveries_s
    times = ""
    if recoveries:
        times = f"; trained again after {statistics.median(recoveries):.1f} s (median), {max(recoveries):.1f} s (worst)"
    fine = not result.problems and not violations
    counted = f"{len(recoveries)} of {len(result.outcomes)} faults recovered from{times}"
    return f"{'came through' if fine else 'did not come through'}: {counted}"


def _spell(schedule: Sequence[Fault]) -> str:
    return ", ".join(f"{fault.kind} {fault.target}" for fault in schedule) or "none"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
