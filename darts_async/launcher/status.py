"""`darts-async status RUN` and `darts-async set RUN`: asks the live run and shows the answer.

Exit status 0: answered (and set); 1: the run does not answer or is over; 2: there is no such run, or the wish breaks a
rule.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from darts_async.config.live import parse_assignments
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError, LinkBroken
from darts_async.launcher.run_end import RunEnd
from darts_async.launcher.shared_weights import started
from darts_async.launcher.status_text import shown, status_lines
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
_PIPE_WIDTH: Final = 200
_SET_S: Final = 30.0
"""Every role concerned gets five seconds."""


class _NoAnswer(Exception):
    """Nobody answers; the message says why, as far as it is known."""

    def __init__(self, why: str, end: RunEnd | None = None) -> None:
        super().__init__(why)
        self.end = end


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
        for line in status_lines(answer, console.width if console.is_terminal else _PIPE_WIDTH):
            _print(console, line.text, line.style)
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
        _print(console, f"{key}: {shown(change.old)} -> {shown(change.new)}")
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
        end = RunEnd.of(paths)
        raise _NoAnswer(end.text(), end) from None
    except (OSError, ValueError) as error:
        raise _NoAnswer(f"{paths.control_file} cannot be used: {error}") from None
    try:
        return asyncio.run(ask(place, request, timeout_s))
    except (TimeoutError, LinkBroken):
        if started(place.pid):
            why = f"its launcher (process {place.pid}) is alive and does not answer within {timeout_s:g} s"
            raise _NoAnswer(f"the run does not answer: {why}") from None
        end = RunEnd.of(paths)
        raise _NoAnswer(f"its launcher (process {place.pid}) is gone\n{end.text()}", end) from None


def _say_why(console: Console, error: _NoAnswer, *, as_json: bool) -> int:
    if as_json:
        _print(
            console, json.dumps({"error": str(error), **error.end.as_json()} if error.end else {"error": str(error)})
        )
    else:
        _print(console, str(error))
    return 1


def _print(console: Console, text: str, style: str = "") -> None:
    """As it is; a character that the terminal lacks becomes a question mark."""
    text = text.encode(console.encoding, "replace").decode(console.encoding)
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False, emoji=False)
