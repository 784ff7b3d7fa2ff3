"""A picture on a real pseudo-terminal: what is on it after many pictures, how it is left, and who waits for it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time

import pytest
from rich.console import Console
from rich.text import Text

from darts_async.launcher.view.glyphs import UNICODE
from darts_async.launcher.view.painter import Painter
from darts_async.launcher.view.screen import Screen, has_screen
from darts_async.launcher.view.snapshot import Snapshot

_CODES = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class _Terminal:
    """The other side: what a terminal of some size shows, for the codes that are used."""

    def __init__(self, columns: int, lines: int) -> None:
        self.leader, self.follower = pty.openpty()
        self.resize(columns, lines)
        self.console = Console(
            file=os.fdopen(os.dup(self.follower), "w"), force_terminal=True, color_system="standard", no_color=False
        )
        self.raw = ""
        self.grid: dict[int, str] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)

    def resize(self, columns: int, lines: int) -> None:
        self.columns = columns
        fcntl.ioctl(self.follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> None:
        """Start to take what is written."""
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.raw += os.read(self.leader, 1 << 16).decode()
            except OSError:
                return

    def close(self) -> str:
        """Everything that was written."""
        self.console.file.close()
        os.close(self.follower)
        if self._reader.is_alive():
            self._reader.join(5)
        os.close(self.leader)
        return self.raw

    def shown(self) -> list[str]:
        """Play all of it."""
        rows: dict[int, str] = {}
        row = column = at = 0
        for match in [*_CODES.finditer(self.raw), None]:
            text = self.raw[at : match.start() if match else None]
            before = rows.get(row, "").ljust(column)
            rows[row] = (before[:column] + text + before[column + len(text) :])[: self.columns]
            column += len(text)
            if match is None:
                break
            at, (private, numbers, code) = match.end(), match.groups()
            if code == "H":
                row, column = (int(number) - 1 for number in numbers.split(";"))
            elif code == "K":
                rows[row] = rows[row][:column]
            elif code == "J":
                first = 0 if numbers == "2" else row
                rows = {number: text for number, text in rows.items() if number < first}
            else:
                assert code == "m" or private, match.group()
        last = max(number for number, text in rows.items() if text.strip())
        return [rows.get(number, "").rstrip() for number in range(last + 1)]


@pytest.fixture
def terminal():
    made = _Terminal(20, 6)
    made.read()
    yield made
    if made.console.file and not made.console.file.closed:
        made.close()


def _until(met, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_only_what_changed_is_written_and_the_sum_is_the_last_picture(terminal):
    screen = Screen(terminal.console)
    screen.enter()
    pictures = [
        ["one", "two", "x" * 20],
        ["one", "2", "x" * 20],
        ["one", "2"],
        ["one", Text("zwei", style="bold red"), "", "four"],
    ]
    for picture in pictures:
        screen.paint(lambda width, height, rows=picture: [Text(str(row)) for row in rows])
    screen.paint(lambda width, height: [Text("one"), Text("zwei", style="bold red"), Text(), Text("four")])
    screen.leave()
    _until(lambda: terminal.raw.endswith("\x1b[?1049l"))
    assert (terminal.raw.count("one"), terminal.raw.count("x" * 20)) == (1, 1)
    assert "\x1b[1;31mzwei\x1b[0m" in terminal.raw
    assert terminal.shown() == ["one", "zwei", "", "four"]


def test_another_size_is_drawn_whole(terminal):
    screen, sizes = Screen(terminal.console), []

    def draw(width, height):
        sizes.append((width, height))
        return [Text("a" * width), Text("b")]

    screen.enter()
    screen.paint(draw)
    terminal.resize(8, 4)
    screen.paint(draw)
    screen.leave()
    _until(lambda: terminal.raw.endswith("\x1b[?1049l"))
    assert sizes == [(20, 6), (8, 4)]
    assert terminal.shown() == ["a" * 8, "b"]


def test_no_color_keeps_the_words_and_drops_the_colours(terminal):
    terminal.console.no_color = True
    screen = Screen(terminal.console)
    screen.enter()
    screen.paint(lambda width, height: [Text("bold", style="bold red")])
    screen.leave()
    _until(lambda: terminal.raw.endswith("\x1b[?1049l"))
    assert "\x1b[1mbold\x1b[0m" in terminal.raw
    assert "31" not in terminal.raw


def test_modes_are_given_back_and_leaving_twice_does_nothing(terminal):
    before = termios.tcgetattr(terminal.follower)
    screen = Screen(terminal.console)
    screen.enter()
    assert not termios.tcgetattr(terminal.follower)[3] & termios.ECHO
    screen.leave()
    screen.leave()
    assert termios.tcgetattr(terminal.follower) == before
    _until(lambda: terminal.raw.endswith("\x1b[?1049l"))
    for on, off in (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"), ("\x1b[?7l", "\x1b[?7h")):
        assert (terminal.raw.count(on), terminal.raw.count(off)) == (1, 1)


def test_what_is_no_screen(terminal, tmp_path):
    assert has_screen(terminal.console)
    with (tmp_path / "file").open("w") as file:
        assert not has_screen(Console(file=file, force_terminal=True))
    dumb = Console(file=terminal.console.file, force_terminal=True, _environ={"TERM": "dumb"})
    assert not has_screen(dumb)


def test_at_most_four_pictures_a_second_and_the_latest_one(terminal):
    terminal.resize(60, 6)
    with Painter(terminal.console, UNICODE) as painter:
        began_s = time.monotonic()
        step = 0
        while time.monotonic() - began_s < 0.6:
            step += 1
            painter.show(Snapshot(run="r", state="running", step=step, steps=10**6, wall_s=0.0))
            time.sleep(0.001)
        _until(lambda: f"step {step:,} of" in terminal.raw)
        took_s = time.monotonic() - began_s
    assert terminal.raw.count("step ") <= 2 + took_s / 0.25


def test_a_terminal_that_takes_nothing_holds_nobody_up():
    stopped = _Terminal(200, 60)  # nobody reads: a few kilobytes and it is full, as after Ctrl-S
    painter = Painter(stopped.console, UNICODE)
    painter.__enter__()
    began_s = time.monotonic()
    for step in range(50):
        warnings = tuple(f"{step} " * 60 for _ in range(40))
        painter.show(Snapshot(run="r", state="running", step=step, steps=100, warnings=warnings))
        time.sleep(0.02)
    assert time.monotonic() - began_s < 5
    stopped.read()
    painter.__exit__(None, None, None)
    assert stopped.close().endswith("\x1b[?1049l")


_SUSPENDED = """
    import sys, time
    from rich.console import Console
    from darts_async.launcher.view.glyphs import UNICODE
    from darts_async.launcher.view.painter import Painter
    from darts_async.launcher.view.snapshot import Snapshot
    with Painter(Console(), UNICODE) as painter:
        painter.show(Snapshot(run="name", state="running"))
        sys.stdin.read(1)
        raise RuntimeError("no luck")
"""


def test_suspended_continued_and_over_by_an_error():
    terminal = _Terminal(60, 10)
    before = termios.tcgetattr(terminal.follower)
    terminal.read()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SUSPENDED)],
        stdin=terminal.follower,
        stdout=terminal.follower,
        stderr=terminal.follower,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    try:
        _until(lambda: "name" in terminal.raw, 60)
        process.send_signal(signal.SIGTSTP)
        os.waitpid(process.pid, os.WUNTRACED)
        _until(lambda: terminal.raw.endswith("\x1b[?1049l"))
        assert termios.tcgetattr(terminal.follower) == before
        drawn = terminal.raw.count("name")
        process.send_signal(signal.SIGCONT)
        _until(lambda: terminal.raw.count("name") > drawn, 60)
        os.write(terminal.leader, b"q")
        assert process.wait(60) == 1
        _until(lambda: "RuntimeError: no luck" in terminal.raw.rpartition("\x1b[?1049l")[2])
        assert terminal.raw.count("\x1b[?1049h") == 2
        assert termios.tcgetattr(terminal.follower) == before
    finally:
        process.kill()
        process.wait()
        terminal.close()
