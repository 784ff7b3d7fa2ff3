"""A run as a picture on the launcher's own terminal, redrawn in place until the run is over.

Called in the launcher's event loop, which it takes a snapshot's time of, at most four times a second; drawing and
writing are the painter's. What others write to the standard error stream meanwhile becomes a warning in the picture,
and is written after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Self

from rich.console import Console

from darts_async.config.paths import RunPaths
from darts_async.launcher.roles import RoleProcess
from darts_async.launcher.view.ended import of_folder, print_picture
from darts_async.launcher.view.glyphs import glyphs_for
from darts_async.launcher.view.history import History
from darts_async.launcher.view.painter import EVERY_S, Painter
from darts_async.launcher.view.snapshot import Snapshot, of_answer
from darts_async.messages import EvalResult
from darts_async.runtime.outside_link import StatusAnswer

__all__ = ["LiveView"]

_TICK_S: Final = 1.0
"""The clock in the picture goes on when nothing else does."""
_NOTES: Final = 10
_STDERR_LINES: Final = 200


class LiveView:
    """Implements `View`. A context: the terminal is a picture inside it, and its end stays behind after it."""

    def __init__(
        self,
        console: Console,
        run: str,
        steps: int,
        paths: RunPaths,
        *,
        lines: Iterable[Mapping[str, object]] = (),
        earlier_s: float = 0.0,
    ) -> None:
        """`lines`: of metrics, of earlier starts of the run; `earlier_s`: how long those lasted."""
        self._console = console
        self._paths = paths
        self._glyphs = glyphs_for(console.encoding)
        self._painter = Painter(console, self._glyphs)
        self._history = History()
        for line in lines:
            self._history.add(line)
        self._first = Snapshot(run=run, state="starting", step=self._history.steps, steps=steps, wall_s=earlier_s)
        self._look: Callable[[], StatusAnswer] | None = None
        self._notes: deque[str] = deque(maxlen=_NOTES)
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        """When that is."""
        self._taken_s = -EVERY_S
        self._stderr = _Lines(self._said)
        self._contexts = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._contexts.enter_context(self._painter)
        self._contexts.enter_context(contextlib.redirect_stderr(self._stderr))
        self._painter.show(self._first)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._contexts.close()
        for line in self._stderr.lines:
            sys.stderr.write(f"{line}\n")
        if self._painter.trouble:
            sys.stderr.write(f"{self._painter.trouble}\n")
        if kind is None:
            print_picture(self._console, of_folder(self._paths, self._history), self._glyphs)

    def attached(self, look: Callable[[], StatusAnswer]) -> None:
        """From now on there is something to see."""
        self._look = look
        self._notes.extend(look().warnings)
        self.refresh()

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        """Seen with the next look."""
        del roles
        self.refresh()

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        """Seen with the next look."""
        del roles
        self.refresh()

    def ready(self, role: RoleProcess) -> None:
        """Seen with the next look."""
        role.state = "ready"
        self.refresh()

    def begun(self) -> None:
        """Seen with the next look."""
        self.refresh()

    def refresh(self) -> None:
        """Take a snapshot as soon as one is due."""
        loop = asyncio.get_running_loop()
        due_s = max(self._taken_s + EVERY_S, loop.time())
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._wake_at(due_s)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A point more in the sparklines."""
        self._history.add({"step": step, **values})
        self.refresh()

    def evaluated(self, result: EvalResult) -> None:
        """Seen with the next look."""
        del result
        self.refresh()

    def note(self, text: str) -> None:
        """It stands among the warnings until others come."""
        self._notes.append(text)
        self.refresh()

    def _said(self, line: str) -> None:
        self._notes.append(line)

    def _wake_at(self, due_s: float) -> None:
        self._due_s = due_s  # uvloop's handle does not tell, when it is due at once
        self._timer = asyncio.get_running_loop().call_at(due_s, self._take)

    def _take(self) -> None:
        loop = asyncio.get_running_loop()
        self._taken_s = loop.time()
        self._wake_at(self._taken_s + _TICK_S)
        if self._look is not None:
            warnings = tuple(self._notes)
            snapshot = of_answer(self._look(), self._history, warnings=warnings)
            self._painter.show(snapshot)


class _Lines(io.TextIOBase):
    """The standard error stream of others, line by line."""

    def __init__(self, said: Callable[[str], None]) -> None:
        self.lines: deque[str] = deque(maxlen=_STDERR_LINES)
        """The last ones."""
        self._said = said
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text)[-(1 << 16) :].split("\n")
        for line in lines:
            self.lines.append(line)
            if line.strip():
                self._said(line)
        return len(text)
