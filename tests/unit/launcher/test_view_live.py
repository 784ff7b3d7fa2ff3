"""The launcher's own picture, under the event loop that the launcher runs on."""

import asyncio
import codecs
import fcntl
import logging
import os
import pty
import struct
import sys
import termios
import threading
import time

import uvloop
from rich.console import Console

from darts_async.config.paths import RunPaths
from darts_async.launcher.view.live import LiveView
from darts_async.runtime.outside_link import StatusAnswer


def _answer(step):
    nothing = {"roles": (), "queues": (), "waits": (), "verdict": "", "stalls_log": "", "warnings": (), "changed": {}}
    return StatusAnswer(run="r", state="running", wall_s=1.0, step=step, steps=10, still_s=0.0, stalls=0, **nothing)


def test_looks_are_few_and_what_others_write_comes_after_the_picture(tmp_path, capsys):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 70, 0, 0))
    raw: list[str] = []
    decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character

    def read():
        try:
            while True:
                raw.append(decoder.decode(os.read(leader, 1 << 16)))
        except OSError:
            return

    def wait_for(*words):
        deadline = time.monotonic() + 20
        while not all(word in "".join(raw) for word in words):
            assert time.monotonic() < deadline, "".join(raw)
            time.sleep(0.02)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    console = Console(file=os.fdopen(os.dup(follower), "w"), force_terminal=True, color_system="standard")
    looks = []

    def look():
        looks.append(time.monotonic())
        return _answer(len(looks))

    async def play(view):
        view.attached(look)
        for step in range(300):
            view.refresh()
            if step % 100 == 0:
                view.step(step, {"reward/mean": 0.5, "wall_s": float(step)})
            await asyncio.sleep(0.002)
        view.note("a note")
        sys.stderr.write("half a li")
        sys.stderr.write("ne\nanother\n")
        logging.getLogger("nobody.heard.of").warning("said by a log")
        await asyncio.to_thread(wait_for, "a note", "half a line")

    with LiveView(console, "r", 10, RunPaths(tmp_path)) as view:
        began_s = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(play(view))
        took_s = time.monotonic() - began_s
    console.file.close()
    os.close(follower)
    reader.join(5)
    os.close(leader)
    assert 3 <= len(looks) <= 3 + took_s / 0.25
    picture, _, end = "".join(raw).rpartition("\x1b[?1049l")
    assert "a note" in picture
    assert "half a line" in picture
    assert capsys.readouterr().err.splitlines()[:2] == ["half a line", "another"]
    assert "not begun" in end  # the folder has nothing
    assert "step 201 of 201" in end
