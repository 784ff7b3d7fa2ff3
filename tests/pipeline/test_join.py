"""Generators that join a live run from elsewhere: over TCP, with a copy of its join key, weights over the link."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from darts_async.config.rules import JOIN_PORT

pytestmark = pytest.mark.torch


def free_ports() -> int:
    """The first of enough free TCP ports in a row, the one for joining included."""
    while True:
        first = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as open_ones, contextlib.suppress(OSError):
            for port in range(first, first + JOIN_PORT + 1):
                open_ones.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


class JoinProcess:
    """`darts-async join` in a folder of its own: another working directory, other temporary files."""

    def __init__(self, folder: Path, address: str, keys: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        folder.mkdir()
        (folder / "tmp").mkdir()
        shutil.copytree(keys, folder / "keys")
        self.folder = folder
        self._output = folder / "output.txt"
        command = [*prefix, sys.executable, "-m", "darts_async.cli", "join", address, "--keys", "keys", *arguments]
        with self._output.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(folder / "tmp")},
            )

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8", "replace")

    @property
    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("runs/*/logs/*.log"))

    def generator(self) -> psutil.Process:
        """The generator process that it keeps alive."""
        return next(p for p in self._family() if "actors.generator" in p.cmdline())

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {timeout_s} s:\n{self.output}{self.log}") from None

    def assert_nothing_is_left(self) -> None:
        assert list((self.folder / "tmp").iterdir()) == []
        assert [p for p in psutil.process_iter() if self._is_mine(p)] == []

    def kill(self) -> None:
        for process in [*self._family(), *filter(self._is_mine, psutil.process_iter())]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.kill()
        self.process.wait()

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def _is_mine(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.environ().get("TMPDIR") == str(self.folder / "tmp")
        return False


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Callable[..., JoinProcess]]:
    started: list[JoinProcess] = []

    def start(name: str, *arguments: Any, **named: Any) -> JoinProcess:
        started.append(JoinProcess(tmp_path / name, *arguments, **named))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def assert_books(run: Any) -> None:
    run.assert_nothing_is_left()
    run.assert_balanced()
    command = [sys.executable, "-m", "darts_async.cli", "replay", str(run.run_folder), "--check", "--json"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    assert json.loads(check.stdout)["rollouts"]["failed"] == run.summary["rollouts"]["failed"]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_generators_join_one_is_killed_and_joins_again_another_leaves(up, join):
    address = f"tcp://127.0.0.1:{free_ports()}"
    open_run = ("--launch.bind", address, "--launch.join", "2", "--launch.restart_backoff_s", "0.1")
    slow = ("--generator.engine", "sim", "--generator.engine_args.token_s", "0.01")  # it is always at work
    run = up("--run.steps", "16", *open_run, *slow, "--eval.prompts", "8", "--learner.lr", "0")
    run.wait_for("open to generators")
    keys = run.run_folder / "keys" / "join"
    first = join("first", address, keys, "--weights", "link")
    second = join("second", address, keys)
    for rank in (1, 2):
        run.wait_for(f"generator-{rank} is ready")
    full = join("third", address, keys)
    assert full.wait(60) == 1
    assert "launch.join = 2 generators have joined already" in full.output

    far, near = (first, second) if "generator-1 " in first.output else (second, first)
    run.wait_for("step  1/16")
    wait_until(lambda: "start 1" in far.output and "start 1" in near.output, far.output + near.output)
    far.generator().kill()
    run.wait_for("generator-1 has left the run: was killed by signal 9")
    run.wait_for("generator-1 joins again (start 2)")
    near.process.send_signal(signal.SIGINT)
    assert near.wait(30) == 130, near.output
    run.wait_for("generator-2 has left the run: was interrupted")
    assert run.wait(150) == 0, run.output + run.logs() + first.log
    assert far.wait(30) == 0, far.output + far.log
    assert far.output.endswith("the run is over\n")
    assert "weights come over the link" in first.output and "from the run's own folder" in second.output
    for process in (first, second):
        process.assert_nothing_is_left()
    assert_books(run)
    summary = run.summary
    assert (summary["status"], summary["policy_version"], summary["restarts"]) == ("done", 16, {})
    assert summary["rollouts"]["failed"] == summary["failures"].get("generator_lost", 0) > 0
    assert summary["staleness"]["max"] <= 1
    served = {name: part["trajectories"] for name, part in summary["generators"].items()}
    assert served.keys() == {"generator-0", "generator-1"} and min(served.values()) > 0


@pytest.mark.long
def test_who_has_joined_gives_up_when_the_launcher_is_gone(up, join):
    address = f"tcp://127.0.0.1:{free_ports()}"
    run = up.sim("--launch.bind", address, "--launch.join", "1", "--launch.silence_s", "5")
    run.wait_for("open to generators")
    guest = join("guest", address, run.run_folder / "keys" / "join")
    run.wait_for("generator-1 is ready")
    run.process.kill()
    assert guest.wait(60) == 1, guest.output
    assert "the run does not answer for launch.silence_s = 5 s" in guest.output
    guest.assert_nothing_is_left()
    run.assert_nothing_is_left()


@pytest.fixture
def other_host() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A network of its own, joined to this one by a cable, with its own shared memory: the address of this end, and how
    to run something at the other."""
    name = f"darts{os.getpid()}"
    subnet = f"10.213.{os.getpid() % 250}"
    steps = (
        ("netns", "add", name),
        ("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name),
        ("addr", "add", f"{subnet}.1/30", "dev", f"{name}a"),
        ("link", "set", f"{name}a", "up"),
        ("-n", name, "addr", "add", f"{subnet}.2/30", "dev", f"{name}b"),
        ("-n", name, "link", "set", f"{name}b", "up"),
    )
    tool = shutil.which("ip") or "/usr/sbin/ip"
    if not Path(tool).exists():
        pytest.skip("needs iproute2's `ip` to make a second network")
    try:
        for step in steps:
            made = subprocess.run([tool, *step], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"a second network cannot be made here: ip {' '.join(step)}: {made.stderr.strip()}")
        hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh")
        if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
            pytest.skip("shared memory of its own cannot be made here")
        yield f"{subnet}.1", (tool, "netns", "exec", name, *hidden)
    finally:
        subprocess.run([tool, "link", "del", f"{name}a"], capture_output=True, check=False)
        subprocess.run([tool, "netns", "del", name], capture_output=True, check=False)


@pytest.mark.long
def test_a_generator_on_another_network_fetches_what_it_cannot_see(up, join, other_host):
    host, prefix = other_host
    address = f"tcp://{host}:{free_ports()}"
    run = up.sim("--run.steps", "4", "--launch.bind", address, "--launch.join", "1")
    run.wait_for("open to generators")
    guest = join("guest", address, run.run_folder / "keys" / "join", prefix=prefix)
    run.wait_for("generator-1 is ready")
    assert run.wait(150) == 0, run.output + run.logs() + guest.log
    assert guest.wait(30) == 0, guest.output + guest.log
    assert "weights come over the link" in guest.output
    guest.assert_nothing_is_left()
    assert_books(run)
    assert run.summary["generators"]["generator-1"]["trajectories"] > 0
