"""`darts-async top RUN`: the picture that `up` shows, from another terminal.

Asks the live run once a second on its outside link and reads its metrics; it writes nothing and tells the run nothing.
A run that is interrupted, killed or fails is waited for: when it goes on, so does the picture. Without a terminal, and
for a run that is over, the picture is printed once.

Exit status 0: shown; 1: the run is alive and does not answer, and there was nothing to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError, LinkBroken
from darts_async.launcher.run_end import RunEnd
from darts_async.launcher.shared_weights import started
from darts_async.launcher.view.ended import of_folder, print_picture
from darts_async.launcher.view.glyphs import Glyphs, glyphs_for
from darts_async.launcher.view.painter import Painter
from darts_async.launcher.view.screen import has_screen, is_ours
from darts_async.launcher.view.snapshot import Snapshot, of_answer
from darts_async.launcher.view.tail import MetricsTail
from darts_async.runtime.outside_link import AskStatus, OutsideLink, Place, StatusAnswer, find_place

__all__ = ["top"]

_EVERY_S: Final = 1.0
"""Roles report once a second: more often there is nothing new."""
_ANSWER_S: Final = 5.0
_LEAVE: Final = b"qQ\x04"
_HINT: Final = "q leaves; the run goes on"


def top(root: Path, console: Console) -> int:
    """Show a run until it is done or the user leaves; return the exit status. Raises `ConfigError`: no run folder."""
    paths = RunPaths(root)
    if not paths.resolved_config.is_file():
        raise ConfigError("RUN", str(root), "is no run folder", "Name the folder of a run, such as runs/quickstart-1.")
    glyphs = glyphs_for(console.encoding)
    return asyncio.run(_top(_Run(paths), console, glyphs))


@dataclass(frozen=True, slots=True)
class _Silence:
    """Nobody answers, although somebody should."""

    why: str


class _Run:
    """One run folder, looked at from outside; through several starts of the run, if there are."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self.tail = MetricsTail(paths.metrics)
        self._place: Place | None = None
        self._link: OutsideLink | None = None

    async def look(self) -> StatusAnswer | RunEnd | _Silence:
        """How it is now, or how it ended."""
        try:
            place = find_place(self.paths.control_file)
        except FileNotFoundError:
            return await self._over()
        except (OSError, ValueError) as error:
            return _Silence(f"{self.paths.control_file} cannot be used: {error}")
        if not started(place.pid):
            return await self._over()
        try:
            if self._link is None or place != self._place:
                await self.close()
                self._link, self._place = OutsideLink(place), place
            answer = await self._link.ask(AskStatus(), _ANSWER_S)
        except (TimeoutError, LinkBroken):
            await self.close()
            if not started(place.pid):
                return await self._over()
            return _Silence(f"the run's launcher (process {place.pid}) does not answer")
        assert isinstance(answer, StatusAnswer)
        self.tail.read()
        return answer

    async def _over(self) -> RunEnd:
        await self.close()
        self.tail.read()
        return RunEnd.of(self.paths)

    async def close(self) -> None:
        """Until the next look."""
        if self._link is not None:
            await self._link.close()
        self._link = self._place = None


async def _top(run: _Run, console: Console, glyphs: Glyphs) -> int:
    try:
        found = await run.look()
        if isinstance(found, StatusAnswer) and has_screen(console):
            end = await _follow(run, found, console, glyphs)
            if end is None:
                return 0
            found = end
    finally:
        await run.close()
    match found:
        case StatusAnswer():
            print_picture(console, of_answer(found, run.tail.history), glyphs)
        case RunEnd():
            print_picture(console, of_folder(run.paths, run.tail.history), glyphs)
            _say(console, f"\n{found.text()}", glyphs)
        case _Silence():
            _say(console, found.why, glyphs)
            return 1
    return 0


async def _follow(run: _Run, found: StatusAnswer, console: Console, glyphs: Glyphs) -> RunEnd | None:
    """Until it is done, or the user leaves: None."""
    latest: StatusAnswer | RunEnd | _Silence = found
    snapshot = of_answer(found, run.tail.history, hint=_HINT)
    heard_s = time.monotonic()
    with _leaving() as leave, Painter(console, glyphs) as painter:
        while True:
            match latest:
                case StatusAnswer():
                    heard_s = time.monotonic()
                    snapshot = of_answer(latest, run.tail.history, hint=_HINT)
                    painter.show(snapshot)
                case RunEnd(status="done"):
                    return latest
                case RunEnd():
                    painter.show(_waiting(run))
                case _Silence(why=why):
                    since_s = time.monotonic() - heard_s
                    painter.show(replace(snapshot, alarms=(f"{why}: this is how it was {since_s:.0f} s ago",)))
            looking = asyncio.create_task(_next_look(run))
            leaving = asyncio.create_task(leave.wait())
            await asyncio.wait({looking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            for task in (looking, leaving):
                task.cancel()
            await asyncio.gather(looking, leaving, return_exceptions=True)
            if leave.is_set() or painter.trouble:
                break
            latest = looking.result()
    _say(console, painter.trouble or f"left {snapshot.run} at step {snapshot.step} of {snapshot.steps}", glyphs)
    return None


async def _next_look(run: _Run) -> StatusAnswer | RunEnd | _Silence:
    await asyncio.sleep(_EVERY_S)  # a clock, not a wait
    return await run.look()


def _waiting(run: _Run) -> Snapshot:
    """Of a run that may go on."""
    hint = f"waiting for it to go on (darts-async up --resume {run.paths.root}); q leaves"
    return replace(of_folder(run.paths, run.tail.history), hint=hint)


@contextlib.contextmanager
def _leaving() -> Iterator[asyncio.Event]:
    """An event that is set by q, Ctrl-C or SIGTERM."""
    leave, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave.set)
    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    try:
        if keys is not None:
            loop.add_reader(keys, _read_keys, keys, leave, loop)
        yield leave
    finally:
        if keys is not None:
            loop.remove_reader(keys)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _read_keys(keys: int, leave: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(OSError):
        if not is_ours(keys):  # whoever reads in the background is stopped by the kernel
            loop.remove_reader(keys)
            loop.call_later(_EVERY_S, loop.add_reader, keys, _read_keys, keys, leave, loop)
            return
        data = os.read(keys, 256)
        if not data:
            loop.remove_reader(keys)
        if any(key in data for key in _LEAVE):
            leave.set()


def _say(console: Console, text: str, glyphs: Glyphs) -> None:
    text = "\n".join(glyphs.clean(line) for line in text.splitlines())
    console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)
