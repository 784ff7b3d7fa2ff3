"""The terminal while a picture is on it: its second screen, a hidden cursor, keys that are not echoed, and back again.

Only rows that have changed are written, in one piece and without erasing first, so nothing flickers. Invariants:
leaving restores all that was changed, as often as it is called; a process in the background neither writes nor changes
modes (the kernel would stop it).
"""

from __future__ import annotations

import contextlib
import os
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from rich.color import ColorSystem
from rich.console import Console
from rich.text import Text

__all__ = ["Screen", "has_screen", "is_ours"]

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""Second screen, no cursor, no wrapping (a row that is too wide for a moment must not push the others), all empty."""
_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_WHOLE_EVERY: Final = 40
"""Pictures between two that are written whole: somebody else may have written to the terminal."""
_LOCAL: Final = 3
"""Index of the local modes in what `tcgetattr` returns."""
_WAIT_S: Final = 0.5
"""For a picture that is being written; it can take for ever where the user has stopped the output."""


def has_screen(console: Console) -> bool:
    """Whether a picture can be put there: a terminal that can place its cursor, and that is ours to write to."""
    if not console.is_terminal or console.is_dumb_terminal:
        return False
    try:
        descriptor = console.file.fileno()
    except (OSError, ValueError):
        return False
    return os.isatty(descriptor) and is_ours(descriptor)


def is_ours(descriptor: int) -> bool:
    """Whether this process may use a terminal: it is not in the background of it."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True  # not the terminal that controls this process: nobody would stop it


class Screen:
    """Of one console that `has_screen`. `paint` by one thread at a time, with `leave` from any other."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._descriptor = console.file.fileno()
        self._modes: list[Any] | None = None
        self.is_on = False
        """Taken, and not given back."""
        self._is_wanted = False
        self._rows: list[str] = []
        """What is on it."""
        self._size = (0, 0)
        self._num_painted = 0
        self._lock = threading.Lock()

    @property
    def _is_ours(self) -> bool:
        """Not in the background."""
        return is_ours(self._descriptor)

    def enter(self) -> None:
        """Take it, or let the next picture take it that comes when it is ours. Raises `OSError`."""
        with self._held():
            self._is_wanted = True
            self._take()

    def leave(self) -> None:
        """Give it back as it was. Raises nothing; doing it again does nothing."""
        with self._held():
            self._is_wanted = False
            if self.is_on and self._is_ours:
                self.is_on = False
                with contextlib.suppress(OSError):
                    self._write(_LEAVE)
            if self._modes is not None and self._is_ours:
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._modes)  # what was typed is forgotten
                self._modes = None

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """No picture is being written, or one that cannot be waited for."""
        locked = self._lock.acquire(timeout=_WAIT_S)
        try:
            yield
        finally:
            if locked:
                self._lock.release()

    def _take(self) -> None:
        if self.is_on or not self._is_ours:
            return
        self._console.file.flush()
        with contextlib.suppress(termios.error):
            modes = termios.tcgetattr(self._descriptor)
            quiet = termios.tcgetattr(self._descriptor)
            quiet[_LOCAL] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, quiet)
            self._modes = modes
        self.is_on = True
        self._rows, self._size = [], (0, 0)
        self._write(_ENTER)

    def paint(self, draw: Callable[[int, int], Sequence[Text]]) -> None:
        """Put a picture on it, which `draw` makes for a width and a height. Raises `OSError`: the terminal is gone."""
        with self._lock:
            if self._is_wanted:
                self._take()  # it was in the background until now
            if not self.is_on or not self._is_ours:
                return
            columns, lines = os.get_terminal_size(self._descriptor)
            size = width, height = columns or 80, lines or 24  # some terminals do not know
            self._num_painted += 1
            whole = size != self._size or self._num_painted % _WHOLE_EVERY == 0
            self._size = size
            rows = [self._coded(row, width) for row in draw(width, height)[:height]]
            before = [] if whole else self._rows
            parts = [
                f"\x1b[{number + 1};1H{row}"
                for number, row in enumerate(rows)
                if number >= len(before) or before[number] != row
            ]
            if whole or len(rows) < len(before):
                parts.append(f"\x1b[{len(rows) + 1};1H\x1b[J" if len(rows) < height else "")
            if parts:
                self._write("".join(parts))
            self._rows = rows

    def _coded(self, row: Text, width: int) -> str:
        """With codes for its styles; what stands behind a row that is not full is wiped out."""
        no_color, system = self._console.no_color, ColorSystem.STANDARD if self._console.color_system else None
        whole = self._console.get_style(row.style)  # what a row without spans is rendered without
        parts = []
        for segment in row.render(self._console):
            style = whole if segment.style is None else segment.style
            parts.append((style.without_color if no_color else style).render(segment.text, color_system=system))
        if row.cell_len < width:
            parts.append("\x1b[K")
        return "".join(parts)

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(self._console.encoding, "replace"))
        while data:
            data = data[os.write(self._descriptor, data) :]
