"""A real run, one process a role, under fire while it trains: it goes on, counts what it drops, and ends in order."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from darts_async.config import load_config
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import Topology
from fuzzing.barrage import Barrage
from fuzzing.decoding import rss_mib

__all__ = ["fuzz_live_run"]

_START_S, _COUNT_S, _END_S = 240.0, 120.0, 60.0
_FIRST_PORT = 23_610


def fuzz_live_run(count: int, seed: int, *, curve: bool) -> tuple[list[str], list[str]]:
    """Send `count` spoiled messages to each socket of a run; return lines to print, and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="darts-fuzz-") as folder:
        run = _Run(Path(folder), curve=curve)
        try:
            return run.fuzz(count, seed)
        finally:
            run.kill()


class _Run:
    def __init__(self, folder: Path, *, curve: bool) -> None:
        self._folder = folder / "run"
        self._output = folder / "output.txt"
        command = [sys.executable, "-m", "darts_async.cli", "up", "--run.dir", str(folder), "--run.name", "run"]
        command += ["--run.steps", "100000", "--generator.engine", "sim", "--eval.prompts", "0", "--learner.lr", "0"]
        command += ["--generator.engine_args.token_s", "0.002", "--launch.drain_timeout_s", "30"]
        if curve:
            command += ["--launch.bind", f"tcp://127.0.0.1:{_FIRST_PORT}"]
        with self._output.open("wb") as sink:
            self._process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)

    def fuzz(self, count: int, seed: int) -> tuple[list[str], list[str]]:
        self._until(lambda: self._num_steps() >= 2, _START_S, "the run trains")
        topology = self._topology()
        config = load_config(topology.config)
        keys = RunKeys(Path(topology.keys)) if topology.keys else None
        roles = self._roles()
        before = {name: rss_mib(pid) for name, pid in roles.items()}
        steps, began = self._num_steps(), time.monotonic()
        barrage = Barrage(topology.endpoints, keys, config, random.Random(seed))
        wrong: list[str] = []
        try:
            sent = barrage.fire(count)
            barrage.knock()
            self._until(lambda: self._dropped(sent) >= sum(sent.values()), _COUNT_S, "every message is counted")
            took_s, after_barrage = time.monotonic() - began, self._num_steps()
            self._until(lambda: self._num_steps() >= after_barrage + 3, _COUNT_S, "it goes on training")
        except AssertionError as error:
            return [], [str(error)]
        finally:
            barrage.close()
        after = {name: rss_mib(pid) for name, pid in roles.items()}
        refused = sum(value for name, value in self._last_line().items() if name.endswith("/refused_peers"))
        kind = "TCP with keys" if keys else "ipc"
        line = f"real run over {kind}: {len(sent)} listening sockets, {sum(sent.values()):,} spoiled messages "
        line += f"in {took_s:.0f} s, {self._dropped(sent):,.0f} dropped and counted, {refused:.0f} peers refused; "
        line += f"steps {steps} -> {after_barrage} meanwhile, then 3 more"
        memory = ", ".join(f"{name} {before[name]:.0f} -> {after[name]:.0f}" for name in sorted(roles))
        lines = [line, f"RSS before -> after (MiB): {memory}"]
        if self._roles() != roles:
            wrong.append(f"processes changed: {roles} became {self._roles()}")
        return lines, wrong + self._end()

    def _end(self) -> list[str]:
        """Ctrl-C; then the books must balance."""
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(_END_S)
        wrong = [] if status == 130 else [f"the run ended with status {status}:\n{self._tail()}"]
        command = [sys.executable, "-m", "darts_async.cli", "replay", str(self._folder), "--check"]
        check = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        return wrong if check.returncode == 0 else [*wrong, f"the ledger: {check.stdout}{check.stderr}"]

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _roles(self) -> dict[str, int]:
        """Process ids of the roles, by name."""
        found = {}
        for child in psutil.Process(self._process.pid).children():
            words = child.cmdline()
            role = next((word.removeprefix("actors.") for word in words if word.startswith("actors.")), None)
            if role is not None:
                found[f"{role}-{words[words.index('--rank') + 1]}"] = child.pid
        return found

    def _topology(self) -> Topology:
        for child in psutil.Process(self._process.pid).children():
            words = child.cmdline()
            if "--topology" in words:
                content = Path(words[words.index("--topology") + 1]).read_bytes()
                return msgspec.json.decode(content, type=Topology)
        raise AssertionError("no role was started")

    def _num_steps(self) -> int:
        metrics = self._folder / "metrics.jsonl"
        return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0

    def _last_line(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads((self._folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
        return line

    def _dropped(self, sent: dict[Any, int]) -> float:
        line = self._last_line()
        return sum(min(float(line.get(f"link/{name}/dropped_frames", 0)), sent[name]) for name in sent)

    def _until(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"within {limit_s:g} s, or while the run lived, not seen: {what}\n{self._tail()}")
            time.sleep(0.2)

    def _tail(self) -> str:
        texts = [self._output, *sorted((self._folder / "logs").glob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text('utf-8', 'replace')[-1500:]}" for path in texts if path.exists()
        )
