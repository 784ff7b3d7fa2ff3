"""A run as a person starts it: the command line as a process of its own, watched from outside."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from darts_async.tracing.check import TraceCheck, check_trace

_TAG = "DARTS_ASYNC_TEST_TAG"


class Terminal:
    """A pseudo-terminal; what is written to it goes to a file."""

    def __init__(self, output: Path, columns: int = 100, lines: int = 30) -> None:
        self._leader, self.follower = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.follower)
        self.modes_after: list[Any] = []
        self._reader = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._reader.start()

    def resize(self, columns: int, lines: int) -> None:
        """(It is no process's controlling one: nobody gets a signal for it.)"""
        fcntl.ioctl(self.follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """As a person would."""
        os.write(self._leader, keys)

    def ended(self) -> None:
        """Nothing runs on it any more: take the rest of what was written."""
        if self._reader.is_alive():
            self.modes_after = termios.tcgetattr(self.follower)
            os.close(self.follower)
            self._reader.join(5)
            os.close(self._leader)

    def assert_as_before(self) -> None:
        """The modes are those from before anything ran on it."""
        assert self.modes_after == self.modes

    def _read(self, output: Path) -> None:
        with output.open("ab", buffering=0) as sink, contextlib.suppress(OSError):
            while data := os.read(self._leader, 1 << 16):
                sink.write(data)


class UpProcess:
    """`darts-async up` with its output in a file, and every process that descends from it, found by its environment."""

    def __init__(
        self,
        folder: Path,
        arguments: list[str],
        *,
        resume: bool = False,
        program: Path | None = None,
        on_terminal: bool = False,
    ) -> None:
        self.tag = uuid.uuid4().hex
        self.run_folder = folder / "runs" / "test"
        self._groups: set[int] = set()
        self._output = folder / f"output-{self.tag[:8]}.txt"
        command = [sys.executable, "-m", "darts_async.cli", "up"]
        if program is not None:
            command = [sys.executable, str(program), str(folder / "runs")]
        elif resume:
            command += ["--resume", str(self.run_folder)]
        else:
            command += ["--run.dir", str(folder / "runs"), "--run.name", "test"]
        with self._output.open("wb") as file:
            self.terminal = Terminal(self._output) if on_terminal else None
            sink = file if self.terminal is None else self.terminal.follower
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL if self.terminal is None else sink,
                env={**os.environ, _TAG: self.tag} | ({} if self.terminal is None else {"TERM": "xterm"}),
            )

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8", "replace")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.run_folder / "summary.json").read_text())

    def processes(self) -> list[psutil.Process]:
        """All living processes of this run: by its mark in their environment, or by the process group of a role.

        (An engine's child renames itself, which writes over the environment that the kernel shows.)
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                group = os.getpgid(process.pid)
                if process.environ().get(_TAG) == self.tag:
                    found.append(process)
                    if group == process.pid:
                        self._groups.add(group)
                elif group in self._groups:
                    found.append(process)
        return found

    def role(self, role: str, rank: int = 0) -> psutil.Process:
        """The process of a role."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error, ValueError):
                command = process.cmdline()
                if f"actors.{role}" in command and command[command.index("--rank") + 1] == str(rank):
                    return process
        raise AssertionError(f"no {role} among {self.processes()}")

    def wait_for(self, text: str, timeout_s: float = 100) -> None:
        """Until the output has this text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.process.poll() is None, f"it ended without {text!r}:\n{self.output}{self.logs()}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s} s:\n{self.output}{self.logs()}"
            time.sleep(0.05)

    def wait(self, timeout_s: float) -> int:
        """Until it exits; return the status."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}{self.logs()}") from None
        if self.terminal is not None:
            self.terminal.ended()
        return status

    def assert_nothing_is_left(self, within_s: float = 5) -> None:
        """No process, no shared memory; the kernel may take a moment to reap what was killed."""
        deadline = time.monotonic() + within_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, [process.cmdline() for process in left]

    def assert_balanced(self) -> None:
        """Every candidate and every token is in exactly one state."""
        for books in (self.summary["rollouts"], self.summary["tokens"]):
            assert books["generated"] == sum(count for state, count in books.items() if state != "generated")

    def traced(self) -> TraceCheck:
        """What is in the run's trace; it is a valid one."""
        check = check_trace(json.loads((self.run_folder / "trace.json").read_bytes()))
        assert check.violations == []
        return check

    def logs(self) -> str:
        """The roles' logs, for a failing test's message."""
        files = sorted((self.run_folder / "logs").glob("*.log"))
        return "".join(f"\n--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def kill(self) -> None:
        """Whatever happens in a test, it leaves nothing behind."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        if self.terminal is not None:
            self.terminal.ended()


class Starter:
    """Starts runs in a test's own folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.runs: list[UpProcess] = []

    def __call__(self, *arguments: str) -> UpProcess:
        """Start `darts-async up` with these arguments."""
        self.runs.append(UpProcess(self._folder, list(arguments)))
        return self.runs[-1]

    def on_terminal(self, *arguments: str) -> UpProcess:
        """Start it where it can show a picture."""
        self.runs.append(UpProcess(self._folder, list(arguments), on_terminal=True))
        return self.runs[-1]

    def resume(self, *arguments: str) -> UpProcess:
        """Go on with the run of this folder."""
        self.runs.append(UpProcess(self._folder, list(arguments), resume=True))
        return self.runs[-1]

    def python(self, text: str) -> UpProcess:
        """Run a Python program, whose first argument is the folder of runs."""
        program = self._folder / "program.py"
        program.write_text(text)
        self.runs.append(UpProcess(self._folder, [], program=program))
        return self.runs[-1]

    def sim(self, *arguments: str, on_terminal: bool = False) -> UpProcess:
        """The simulated engine with the real learner, rewards and sockets: starts in the time of `import torch`."""
        engine = ("--generator.engine", "sim", "--generator.engine_args.token_s", "0.002")
        start = self.on_terminal if on_terminal else self
        return start(*arguments, *engine, "--eval.prompts", "8", "--learner.lr", "0")


class Verb:
    """A verb on a pseudo-terminal."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._output = folder / f"output-{uuid.uuid4().hex[:8]}.txt"
        self.terminal = Terminal(self._output)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "darts_async.cli", *arguments],
            stdin=self.terminal.follower,
            stdout=self.terminal.follower,
            stderr=self.terminal.follower,
            env={**os.environ, "TERM": "xterm"},
        )

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8", "replace") if self._output.exists() else ""

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Until the output has this text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def wait(self, timeout_s: float) -> int:
        """Until it exits, and all that it wrote is there; return the status."""
        status = self.process.wait(timeout_s)
        self.terminal.ended()
        return status


@pytest.fixture
def on_terminal(tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[Verb]]:
    """Starts a verb."""

    @contextlib.contextmanager
    def start(*arguments: str) -> Iterator[Verb]:
        verb = Verb(tmp_path, arguments)
        try:
            yield verb
        finally:
            verb.process.kill()
            verb.process.wait()
            verb.terminal.ended()

    return start


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for run in starter.runs:
        run.kill()
