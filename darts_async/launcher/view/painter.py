"""Puts snapshots on a terminal, in a thread of its own: whoever shows one never waits for the terminal.

(A user who stops the output with Ctrl-S would stop the launcher's event loop otherwise, and with it the run.)
Invariants: at most four pictures a second; the thread holds one snapshot, the latest; a picture that cannot be drawn or
written ends the pictures and nothing else; after the end the terminal is as it was, also when the process was suspended
and continued in between.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

from rich.console import Console

from darts_async.launcher.view.glyphs import Glyphs
from darts_async.launcher.view.picture import draw
from darts_async.launcher.view.screen import Screen
from darts_async.launcher.view.snapshot import Snapshot

__all__ = ["EVERY_S", "Painter"]

EVERY_S: Final = 0.25
_JOIN_S: Final = 1.0
_Handler = Callable[[int, FrameType | None], Any] | int | None


class Painter:
    """Of one console that `has_screen`. Entered and left in the main thread."""

    def __init__(self, console: Console, glyphs: Glyphs) -> None:
        self.trouble = ""
        """Why no picture is drawn any more."""
        self._screen = Screen(console)
        self._glyphs = glyphs
        self._snapshot: Snapshot | None = None
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        """At most about one: it may be put to in the handler of a signal, which an event's lock would not outlive."""
        self._awake = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)
        self._handlers: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        self._screen.enter()
        if threading.current_thread() is threading.main_thread():
            handlers = {
                signal.SIGWINCH: self._resized,
                signal.SIGTSTP: self._suspend,
                signal.SIGCONT: self._continued,
            }
            self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._wake()
        self._thread.join(_JOIN_S)
        self._screen.leave()
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def show(self, snapshot: Snapshot) -> None:
        """Show this from now on."""
        self._snapshot = snapshot
        self._wake()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._wakes.put(None)

    def _run(self) -> None:
        try:
            while True:
                self._wakes.get()
                self._awake = False
                if self._stopping.is_set():
                    return
                if (snapshot := self._snapshot) is not None:
                    began_s = time.monotonic()
                    self._screen.paint(lambda width, height: draw(snapshot, width, height, self._glyphs))
                    self._stopping.wait(max(began_s + EVERY_S - time.monotonic(), 0.0))
        except OSError as error:
            self.trouble = f"the terminal is gone: {error}"
        except Exception as error:  # noqa: BLE001 - a bug in a picture must not end the run that it shows
            self.trouble = f"the picture cannot be drawn: {type(error).__name__}: {error}"
            self._screen.leave()

    def _resized(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._wake()

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was."""
        del number, frame
        self._screen.leave()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continued(self, number: int, frame: FrameType | None) -> None:
        """`fg`: the picture is back. After `bg` the terminal is not ours, and stays as it is."""
        del number, frame
        if not self._screen.is_on:
            with contextlib.suppress(OSError):
                self._screen.enter()
        self._wake()
