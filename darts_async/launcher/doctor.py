"""`darts-async doctor`: what can be known to go wrong in a run, looked at before it, each with its remedy.

Files and machine are checked here; engine and learner by a process of their own (`actors.doctor`). Invariant: when
`examine` returns or raises, no process and no file of it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop
from rich.console import Console

from darts_async.config import to_toml
from darts_async.config.paths import RunPaths, model_folder
from darts_async.launcher import shared_weights
from darts_async.launcher.job_process import Deadline, Interrupts, JobProcess
from darts_async.launcher.job_view import JobView, check_table
from darts_async.launcher.machine_checks import machine_checks
from darts_async.launcher.model_checks import check_model
from darts_async.launcher.preflight import check_engine_args, with_name
from darts_async.launcher.token_checks import token_checks
from darts_async.runtime.job_events import Check, Progressed, Stage, decode
from darts_async.runtime.job_plans import DoctorPlan
from darts_async.tasks.chat import ChatTokenizer
from darts_async.tasks.prompt_set import load_prompts

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = ["examine"]

_PROMPTS: Final = 32
"""Responses that are compared: some thousand tokens of the quickstart."""
_STAGE_S: Final = 600.0
"""Longest silence while samples are drawn and scored."""
_FILE_COLUMNS: Final = 150
"""Width of the table where there is no terminal to fill."""
_LOG_TAIL_CHARS: Final = 1500


def examine(config: Config, source: str | None, *, engine: bool) -> int:
    """Check, show what was found, return the exit status: 0, or 1 when a check failed, or 130.

    source: where the config is from. engine: start the engine and compare it with the learner. Raises `ConfigError` for
    a config that no run could have.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)
    config = with_name(config, source)
    weight_bytes = check_model(config)
    check_engine_args(config)
    prompts = load_prompts(config)
    checks = token_checks(config, ChatTokenizer(model_folder(config), config.model.chat_template), prompts)
    checks += machine_checks(config, weight_bytes, engine=engine)
    interrupted = False
    if not engine:
        checks.append(_skipped("left out (--no-engine)"))
    elif config.generator.engine != "vllm":
        checks.append(_skipped("the simulated engine has no model: its log-probs are made up"))
    elif any(check.status == "fail" and check.name in {"versions", "vLLM plugin"} for check in checks):
        checks.append(_skipped("left out: what it needs is not installed"))
    else:
        with JobView(console) as view, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            interrupted = runner.run(_examine_engine(config, checks, view))
    console.print(check_table(checks))
    if interrupted:
        console.print("interrupted: not everything was checked")
        return 130
    num_failed = sum(check.status == "fail" for check in checks)
    num_warned = sum(check.status == "warn" for check in checks)
    console.print(f"{len(checks)} checks: {num_failed} failed, {num_warned} to look at", highlight=False)
    return 1 if num_failed else 0


async def _examine_engine(config: Config, checks: list[Check], view: JobView) -> bool:
    """Have the process look, and add what it tells to `checks`; return whether it was interrupted."""
    # A name of its own, so that its published weights cannot meet those of a run.
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": f"doctor-{os.getpid()}"})})
    paths = RunPaths.of(config)
    weights = paths.weights
    deadline = Deadline(_STAGE_S, "the engine or the learner's model did not answer")

    def take(line: bytes) -> Deadline | None:
        event = decode(line)
        match event:
            case Stage():
                view.stage(event.text)
            case Progressed():
                view.progressed(event.done, event.total)
            case Check():
                checks.append(event)
        # The start is a stage too, and has a time of its own.
        return None if event == Stage("starting the engine") else deadline

    with tempfile.TemporaryDirectory(prefix="darts-doctor-") as folder, Interrupts().caught() as interrupts:
        source, log = Path(folder) / "config.toml", Path(folder) / "doctor.log"
        source.write_text(to_toml(config), "utf-8")
        weights.parent.mkdir(parents=True, exist_ok=True)
        shared_weights.create(weights)
        try:
            process = JobProcess("actors.doctor", config, log, interrupts, view.note)
            first = Deadline(config.launch.ready_timeout_s, "the engine did not start (launch.ready_timeout_s)")
            end = await process.run(msgspec.json.encode(DoctorPlan(str(source), _PROMPTS)), first, take)
        finally:
            shared_weights.remove(weights)
            with contextlib.suppress(OSError):
                paths.root.rmdir()  # made only where there is no shared memory
        if interrupts.first.is_set():
            return True
        if end.status != 0:
            tail = log.read_text("utf-8", "replace")[-_LOG_TAIL_CHARS:].strip()
            checks.append(Check("engine and learner", "fail", f"{end.reason.partition(' (log:')[0]}:\n{tail}", _HELP))
        return False


_HELP: Final = "The end of its log is above: mend what its last line says."


def _skipped(why: str) -> Check:
    return Check("log-probs of engine and learner", "skip", why)
