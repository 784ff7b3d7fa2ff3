"""`darts-async status RUN` and `darts-async set RUN`: asks the live run and shows the answer.

Exit status 0: answered (and set); 1: the run does not answer or is over; 2: there is no such run, or the wish breaks a
rule.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from darts_async.config.live import parse_assignments
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError, LinkBroken
from darts_async.runtime.outside_link import (
    Answer,
    AskSet,
    AskStatus,
    Request,
    SetAnswer,
    StatusAnswer,
    ask,
    find_place,
)

__all__ = ["set_live", "status"]

_ANSWER_S: Final = 5.0
_SET_S: Final = 30.0
"""Every role concerned gets five seconds."""


class _NoAnswer(Exception):
    """Nobody answers; the message says why, as far as it is known."""


def status(root: Path, console: Console, *, as_json: bool) -> int:
    """Show how a run is; return the exit status. Raises `ConfigError` when there is no such run."""
    try:
        answer = _ask(root, AskStatus(), _ANSWER_S)
    except _NoAnswer as error:
        return _say_why(console, error, as_json=as_json)
    assert isinstance(answer, StatusAnswer)
    if as_json:
        _print(console, json.dumps(msgspec.to_builtins(answer)))
    else:
        _show(answer, console)
    return 0


def set_live(root: Path, words: Sequence[str], console: Console) -> int:
    """Change settings of a run; return the exit status. Raises `ConfigError` for words that are no assignments."""
    assignments = dict(parse_assignments(words))
    try:
        answer = _ask(root, AskSet(assignments=assignments), _SET_S)
    except _NoAnswer as error:
        return _say_why(console, error, as_json=False)
    assert isinstance(answer, SetAnswer)
    if answer.refused:
        _print(console, f"refused: {answer.refused}")
        return 2
    for key, change in answer.changed.items():
        _print(console, f"{key}: {_value(change.old)} -> {_value(change.new)}")
    if not answer.changed:
        _print(console, "nothing to change: these are the values already")
    if answer.unconfirmed:
        _print(console, f"not confirmed yet by {', '.join(answer.unconfirmed)}: told again when back")
    return 0


def _ask(root: Path, request: Request, timeout_s: float) -> Answer:
    paths = RunPaths(root)
    if not paths.resolved_config.is_file():
        raise ConfigError("RUN", str(root), "is no run folder", "Name the folder of a run, such as runs/quickstart-1.")
    try:
        place = find_place(paths.control_file)
    except FileNotFoundError:
        raise _NoAnswer(_how_it_ended(paths)) from None
    except (OSError, ValueError) as error:
        raise _NoAnswer(f"{paths.control_file} cannot be used: {error}") from None
    try:
        return asyncio.run(ask(place, request, timeout_s))
    except (TimeoutError, LinkBroken):
        if _is_alive(place.pid):
            why = f"its launcher (process {place.pid}) is alive and does not answer within {timeout_s:g} s"
        else:
            why = f"its launcher (process {place.pid}) is gone: it was killed, or the machine was"
        raise _NoAnswer(f"the run does not answer: {why}") from None


def _how_it_ended(paths: RunPaths) -> str:
    try:
        summary = json.loads(paths.summary.read_text("utf-8"))
        how = f"{summary['status']} after {summary['steps']} steps"
    except (OSError, ValueError, KeyError, TypeError):
        return "nobody is running this run, and it has no summary: it was killed, or has not begun"
    return f"the run is over: {how} ({paths.summary})"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _say_why(console: Console, error: _NoAnswer, *, as_json: bool) -> int:
    _print(console, json.dumps({"error": str(error)}) if as_json else str(error))
    return 1


def _show(answer: StatusAnswer, console: Console) -> None:
    _print(console, f"{answer.run}: {answer.state}, step {answer.step}/{answer.steps}, {_clock(answer.wall_s)}")
    console.print(_role_table(answer))
    if answer.queues:
        console.print(_queue_table(answer))
    _print(console, "who waits for whom:")
    for sentence in (*answer.waits, answer.verdict):
        _print(console, f"  {sentence}")
    if answer.still_s >= 1:
        _print(console, f"nothing has progressed for {_clock(answer.still_s)}")
    for key, change in answer.changed.items():
        _print(console, f"set while the run goes on: {key} {_value(change.old)} -> {_value(change.new)}")
    for text in answer.warnings:
        _print(console, f"warning: {text}")


def _role_table(answer: StatusAnswer) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("role", "state", "since", "pid", "restarts", "idle", "heard"):
        table.add_column(name, no_wrap=True, justify="left" if name in {"role", "state"} else "right")
    for role in answer.roles:
        table.add_row(
            role.name,
            Text(role.state, overflow="ellipsis"),
            _clock(role.state_s),
            str(role.pid),
            str(role.restarts),
            "" if role.idle_ratio is None else f"{role.idle_ratio:.0%}",
            "never" if role.heard_s is None else f"{role.heard_s:.1f} s ago",
        )
    return table


def _queue_table(answer: StatusAnswer) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("queue", "depth", "bound", "not empty for"):
        table.add_column(name, no_wrap=True, justify="left" if name == "queue" else "right")
    for queue in answer.queues:
        table.add_row(queue.name.replace("_", " "), f"{queue.depth:.0f}", str(queue.bound), _clock(queue.busy_s))
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _value(value: Any) -> str:
    return "none" if value is None else str(value)


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
