"""`run` and `arun`: what `darts-async up` does, for a caller who wants its result.

Invariants: what is wrong with a config is a `ConfigError` before anything is started; whatever ends the call, no
process of the run is left behind it; signal handlers are the caller's again when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from darts_async.api.given import Given, as_keys, read_given
from darts_async.api.loop_thread import LoopThread
from darts_async.api.override_text import override_texts
from darts_async.api.result import Result
from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError, RunFailed, RunInterrupted
from darts_async.launcher.preflight import Plan, check, with_name
from darts_async.launcher.resume import RunIsComplete, find_run, plan_resume
from darts_async.launcher.up import carry_out

__all__ = ["arun", "run"]

_WAKE_S: Final = 1.0
"""Who waits for a run wakes so often, to see signals: one that another thread takes does not end a wait, and a
notebook's loop that is asleep does not see that its cell was interrupted (ipykernel 7.4)."""
_Thread = LoopThread[Plan | Result, Result | RunInterrupted]


def run(
    config: Given = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Result:
    """Start a topology, train, and return what came of it: `darts-async up` as a function.

    config: a TOML file, the name of a built-in config, a table as such a file would hold it (`extends` included), or a
    `Config`; None: the quickstart. What differs goes into `overrides`, by key (`{"learner.lr": 1e-6}`), or into
    keywords: `learner__lr=1e-6`, or a section at a time, `learner={"lr": 1e-6, "loss": "gspo"}`. Wherever the config
    takes an import path, a function or class of an imported module may stand itself.

    resume: a run folder, or a run's name, to go on with, in the place of a config. progress: show what happens, as `up`
    does; False: print nothing.

    Works in a script, in a notebook and in any thread. In the main thread Ctrl-C (and SIGTERM) drains the run, a second
    one kills it; then comes `RunInterrupted`, a `KeyboardInterrupt`. Raises `ConfigError` before anything was started,
    `RunFailed` (with the `folder`) when the run failed.
    """
    thread = _thread(config, overrides or {}, settings, resume, progress)
    with _signals_taken(thread.interrupt):
        thread.start()
        while not thread.outcome.done():
            futures.wait([thread.outcome], timeout=_WAKE_S)
        found = thread.outcome.result()
    return _result(found)


async def arun(
    config: Given = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Result:
    """`run` for a caller with an event loop, which goes on meanwhile. Several may be awaited at once.

    To cancel it drains the run, a second time kills it; then `CancelledError` goes on. Signals are left alone.
    """
    thread = _thread(config, overrides or {}, settings, resume, progress)
    thread.start()
    outcome = asyncio.wrap_future(thread.outcome)
    cancelled: asyncio.CancelledError | None = None
    while not outcome.done():
        try:
            await asyncio.wait({outcome}, timeout=_WAKE_S)
        except asyncio.CancelledError as error:
            thread.interrupt()
            cancelled = error
    if cancelled is not None:
        outcome.exception()  # seen: what the caller hears of is that it was cancelled
        raise cancelled
    return _result(outcome.result())


def _thread(
    given: Given, overrides: Mapping[str, Any], settings: Mapping[str, Any], resume: str | Path | None, progress: bool
) -> _Thread:
    console = Console(force_jupyter=False) if progress else None  # plain lines in a notebook, too
    if resume is None:
        config, stem = read_given(given, overrides, settings)
        prepare: Callable[[], Plan | Result] = partial(_plan, config, stem)
    elif given is not None:
        raise ConfigError("resume", str(resume), "takes the config of the run", "Leave the other config out.")
    else:
        prepare = partial(_plan_resume, str(resume), override_texts(as_keys(overrides, settings)), console)
    return LoopThread(prepare, partial(_work, console=console))


_names: Final[set[Path]] = set()
"""Folders that runs of this process were given, which may not be there yet."""
_names_lock = threading.Lock()


def _plan(config: Config, stem: str) -> Plan:
    return check(config if config.run.name else _with_free_name(config, stem), None)


def _with_free_name(config: Config, stem: str) -> Config:
    """The time names a run to the second, and a sweep begins several in one."""
    named = first = with_name(config, stem)
    with _names_lock:
        number = 1
        while (root := RunPaths.of(named).root) in _names or root.exists():
            number += 1
            name = f"{first.run.name}-{number}"
            named = first.model_copy(update={"run": first.run.model_copy(update={"name": name})})
        _names.add(root)
    return named


def _plan_resume(folder: str, texts: list[tuple[str, str]], console: Console | None) -> Plan | Result:
    def say(text: str) -> None:
        if console is not None:
            console.print(text, soft_wrap=True, markup=False, highlight=False)

    try:
        return plan_resume(folder, texts, say)
    except RunIsComplete as complete:
        say(str(complete))
        return Result.read(find_run(folder))


async def _work(plan: Plan | Result, *, console: Console | None) -> Result | RunInterrupted:
    if isinstance(plan, Result):
        return plan
    try:
        await asyncio.sleep(0)  # an interrupt of the planning comes up here: nothing is begun then
    except asyncio.CancelledError:
        if plan.lock is not None:
            plan.lock.release()
        return RunInterrupted(None)
    try:
        return Result.of(plan.paths.root, await carry_out(plan, console, signals=False))
    except asyncio.CancelledError:
        return RunInterrupted(plan.paths.root)


def _result(found: Result | RunInterrupted) -> Result:
    if isinstance(found, RunInterrupted):
        raise found
    if found.status == "failed":
        failed = RunFailed(f"{found.reason} (run folder: {found.folder})")
        failed.folder = found.folder
        raise failed
    return found


@contextlib.contextmanager
def _signals_taken(interrupt: Callable[[], None]) -> Iterator[None]:
    """Signals are the main thread's: in another one nothing is taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: interrupt()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
