"""`darts-async chaos` on the quickstart: every role is killed and stopped while it trains with the real engine.

The command judges by itself (steps reached, faults recovered from, ledger checked, nobody left over); what it wrote
into `chaos.json` becomes rows.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soaks.outside import command, darts_async
from soaks.result import Result, Row

_REAL = {
    "run.steps": "300",
    "checkpoint.every_steps": "1000",
    "checkpoint.recovery_steps": "4",
    "launch.max_restarts": "10",
    "launch.restart_backoff_s": "0.1",
    # An engine starts within a minute on two idle cores; on a busy machine it took six.
    "launch.ready_timeout_s": "900",
}
_SIM = {
    **_REAL,
    "run.steps": "60",
    "eval.prompts": "0",
    "generator.engine": "sim",
    "generator.engine_args.token_s": "0.002",
    "learner.lr": "0",
}
ROLES = "generator,selector,allocator,learner"


def run(*, quick: bool, folder: Path, said: Callable[[str], None]) -> Result:
    """Three kills and a stop of ten seconds of each role; quick: a kill and a stop, with the simulated engine."""
    settings = {"run.dir": str(folder), "run.name": "chaos", **(_SIM if quick else _REAL)}
    if quick:
        words = ["--kill", "generator", "--stop", "selector", "--stop-s", "1", "--gap-s", "0.5"]
    else:
        words = ["--kill", ROLES, "--kills", "3", "--stop", ROLES, "--stop-s", "10", "--gap-s", "4"]
        words += ["--recover-s", "900"]
    for key, value in settings.items():
        words += [f"--{key}", value]
    shutil.rmtree(folder / "chaos", ignore_errors=True)
    began = time.monotonic()
    status = command(darts_async("chaos", *words), said)
    seconds = time.monotonic() - began
    try:
        found = json.loads((folder / "chaos" / "chaos.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        problem = f"the command ended with status {status} and left no result: {error}"
        return Result("chaos", [], seconds, [problem], quick)
    problems = [*found["problems"], *found["violations"]]
    if status and not problems:
        problems.append(f"the command ended with status {status}")
    engine = "simulated engine" if quick else "real vLLM"
    rows = [_row(name, times, found, engine) for name, times in found["recovery_by_role_s"].items()]
    return Result("chaos", rows, seconds, problems, quick, figures=found)


_WORDS = {"kill": "SIGKILL", "stop": "SIGSTOP for {:g} s", "delay": "SIGSTOP and SIGCONT five times a second, {:g} s"}


def _row(name: str, times: dict[str, Any], found: dict[str, Any], engine: str) -> Row:
    kind, _, role = name.partition(" of ")
    lasts_s = next(
        fault["fault"]["lasts_s"]
        for fault in found["faults"]
        if fault["fault"]["kind"] == kind and fault["fault"]["target"].startswith(f"{role}-")
    )
    return Row(
        fault=f"{role}: {_WORDS[kind].format(lasts_s)} ({engine})",
        times=times["faults"],
        outcome=f"recovered {times['recovered']} of {times['faults']}; {found['steps']} steps trained, "
        f"ledger check: {len(found['violations'])} violations",
        median_s=times["median"],
        worst_s=times["worst"],
    )
