"""`darts-async eval`: pass@1 and length of a checkpoint on held-out prompts (measured by `actors.evaluate`).

Invariant: when `evaluate` returns or raises, no process of it is left; the result's file is written whole or not at
all.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from darts_async import __version__
from darts_async.config import to_toml
from darts_async.config.paths import model_folder
from darts_async.errors import ConfigError
from darts_async.launcher.job_process import Deadline, Interrupts, JobProcess
from darts_async.launcher.job_view import JobView
from darts_async.launcher.model_checks import check_model, check_positions
from darts_async.launcher.preflight import check_engine, check_engine_args
from darts_async.runtime.job_events import Failure, HeldOutScores, Progressed, Stage, decode
from darts_async.runtime.job_plans import EvalPlan
from darts_async.tasks.prompt_set import load_prompts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darts_async.algorithms.held_out import HeldOut
    from darts_async.config import Config

__all__ = ["evaluate", "output_file"]

_SILENCE_S: Final = 1800.0
"""Longest time without a single response coming to its end."""


def evaluate(config: Config, out: Path, *, greedy: bool) -> int:
    """Measure, show a table, write `out`; return the exit status. Raises `ConfigError` before anything starts."""
    console = Console()
    check_model(config)
    check_positions(config)
    check_engine(config)
    check_engine_args(config)
    if not load_prompts(config).held_out:
        raise ConfigError(
            "eval.prompts",
            config.eval.prompts,
            "no held-out prompt is left to measure on",
            "Ask for at least one (--prompts), or raise model.max_prompt_tokens.",
        )
    with JobView(console) as view, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(_evaluate(config, out.with_suffix(".log"), view, greedy=greedy))
    if outcome is None:
        console.print("interrupted: nothing was written")
        return 130
    if isinstance(outcome, str):
        console.print(f"failed: {outcome}", soft_wrap=True, markup=False, highlight=False)
        return 1
    _write(out, _document(config, outcome, greedy=greedy))
    console.print(_table(outcome))
    failed = outcome.total.failed
    if failed:
        note = f"{failed} samples failed and are left out; the first one: {outcome.first_failure}"
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    console.print(f"written: {out}", soft_wrap=True, markup=False, highlight=False)
    return 0 if outcome.total.samples else 1


def output_file(given: str | None) -> Path:
    """Where the result goes: a file, or `eval.json` in a folder (default: the current one). Raises `ConfigError`."""
    path = Path(given or ".").absolute()
    if path.is_dir():
        path /= "eval.json"
    if not path.parent.is_dir():
        raise ConfigError("--out", given, f"there is no folder {path.parent}", "Make it, or choose another file.")
    return path


async def _evaluate(config: Config, log: Path, view: JobView, *, greedy: bool) -> HeldOutScores | str | None:
    """Return the scores, why there are none, or None when interrupted. The log stays only where something failed."""
    scores: HeldOutScores | None = None
    failure = ""
    deadline = Deadline(_SILENCE_S, "no response came to its end")

    def take(line: bytes) -> Deadline | None:
        nonlocal scores, failure
        event = decode(line)
        match event:
            case Stage():
                view.stage(event.text)
            case Progressed():
                view.progressed(event.done, event.total)
                return deadline
            case HeldOutScores():
                scores = event
            case Failure():
                failure = event.text
        return None

    with tempfile.TemporaryDirectory(prefix="darts-eval-") as folder, Interrupts().caught() as interrupts:
        source, own_log = Path(folder) / "config.toml", Path(folder) / "eval.log"
        source.write_text(to_toml(config), "utf-8")
        process = JobProcess("actors.evaluate", config, own_log, interrupts, view.note)
        first = Deadline(config.launch.ready_timeout_s, "the engine did not start (launch.ready_timeout_s)")
        end = await process.run(msgspec.json.encode(EvalPlan(str(source), greedy)), first, take)
        if interrupts.first.is_set():
            return None
        if scores is not None:
            return scores
        await asyncio.to_thread(shutil.copyfile, own_log, log)
        return f"{failure} (log: {log})" if failure else end.reason.replace(str(own_log), str(log))


def _document(config: Config, scores: HeldOutScores, *, greedy: bool) -> dict[str, Any]:
    total: dict[str, Any] = msgspec.to_builtins(scores.total)
    strata: dict[str, Any] = msgspec.to_builtins(scores.strata)
    return {
        "checkpoint": str(model_folder(config)),
        "task": config.task.name,
        **total,
        "samples_per_prompt": config.eval.samples,
        "temperature": 0.0 if greedy else config.sampling.temperature,
        "max_response_tokens": config.model.max_response_tokens,
        "seed": config.run.seed,
        "strata": strata,
        "tokens_per_s": round(scores.tokens_per_s, 1),
        "version": __version__,
        "date": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _write(out: Path, document: Mapping[str, Any]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        rule = f"cannot be written ({error.strerror or error})"
        raise ConfigError("--out", str(out), rule, "Choose another file.") from None


def _table(scores: HeldOutScores) -> Table:
    table = Table()
    table.add_column("stratum")
    for name in ("pass@1", "+-", "length", "at cap", "prompts", "samples"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = scores.strata if len(scores.strata) > 1 else {}
    for name, part in [*rows.items(), ("all", scores.total)]:
        table.add_row(name, *_cells(part))
    return table


def _cells(part: HeldOut) -> tuple[str, ...]:
    return (
        _shown(part.pass_at_1, ".3f"),
        _shown(part.standard_error, ".3f"),
        _shown(part.response_length, ".1f"),
        _shown(part.capped_share, ".1%"),
        str(part.prompts),
        str(part.samples),
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
