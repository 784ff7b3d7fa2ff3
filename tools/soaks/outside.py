"""Commands that a soak runs as processes of their own: what they say is passed on, and they never outlive the soak."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_END_S = 30.0
"""For a command that was interrupted to end in its own order: a run has to drain."""
TOOLS = Path(__file__).resolve().parents[1]


def command(arguments: Sequence[str], said: Callable[[str], None], *, environment: dict[str, str] | None = None) -> int:
    """Run it; return its status. Whatever ends the soak (Ctrl-C first of all) ends it too."""
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        start_new_session=True,  # Ctrl-C reaches it through here, once
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            said(line.rstrip())
        return process.wait()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                # Its roles die with it: they are told by the kernel.
                process.kill()
                process.wait()
        process.stdout.close()


def darts_async(*words: str) -> list[str]:
    """The command line of this installation."""
    return [sys.executable, "-m", "darts_async.cli", *words]


def tool(name: str, *words: str) -> list[str]:
    """A tool beside this one."""
    return [sys.executable, str(TOOLS / name), *words]
