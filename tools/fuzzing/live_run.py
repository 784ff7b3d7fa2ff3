"""A real run, one process a role, under fire while it trains: it counts what it drops, and reaches its last step."""

from __future__ import annotations

import json
import random
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
from darts_async.config.paths import RunPaths
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import Topology
from fuzzing.barrage import Barrage
from fuzzing.decoding import rss_mib
from fuzzing.replays import old_messages

__all__ = ["fuzz_live_run"]

_START_S, _COUNT_S, _STEP_S = 240.0, 120.0, 20.0
_FIRST_PORT = 23_610
_GROWTH_MIB = 64.0
"""What a role may gain between the warm-up and the end; a run's own books grow by much less, and what is kept of each
dropped message shows when `--sockets` is large."""
_OPTIONS = {
    "generator.engine": "sim",
    "generator.engine_args.token_s": "0.002",
    "group.groups_per_step": "2",
    "eval.prompts": "0",
    # So that the learner reads the chunks link.
    "learner.kl_weight": "0.001",
    "queues.chunk_tokens": "16",
    "learner.lr": "0",
    "launch.drain_timeout_s": "30",
}


def fuzz_live_run(count: int, seed: int, *, curve: bool, steps: int) -> tuple[list[str], list[str]]:
    """Send `count` spoiled messages to each socket of a run; return lines to print, and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="darts-fuzz-") as folder:
        run = _Run(Path(folder), curve=curve, steps=steps)
        try:
            return run.fuzz(count, seed)
        except (AssertionError, TimeoutError, LookupError) as error:
            return [], [f"{error}\n{run.tail()}"]
        finally:
            run.kill()


class _Run:
    def __init__(self, folder: Path, *, curve: bool, steps: int) -> None:
        self._folder = folder / "run"
        self._steps = steps
        self._output = folder / "output.txt"
        options = _OPTIONS | {"run.dir": str(folder), "run.name": "run", "run.steps": str(steps)}
        if curve:
            options["launch.bind"] = f"tcp://127.0.0.1:{_FIRST_PORT}"
        command = [sys.executable, "-m", "darts_async.cli", "up"]
        command += [word for key, value in options.items() for word in (f"--{key}", value)]
        with self._output.open("wb") as sink:
            self._process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)

    def fuzz(self, count: int, seed: int) -> tuple[list[str], list[str]]:
        self._until(lambda: self._num_steps() >= 3, _START_S, "the run trains")
        topology = self._topology()
        config = load_config(topology.config)
        keys = RunKeys(Path(topology.keys)) if topology.keys else None
        roles, rng = self._roles(), random.Random(seed)
        memory = [self._memory(roles)]
        began, first = time.monotonic(), self._num_steps()
        barrage = Barrage(topology.endpoints, keys, config, rng)
        try:
            warm = barrage.fire(max(count // 10, 1))
            self._until(lambda: self._dropped(warm) >= sum(warm.values()), _COUNT_S, "every message is counted")
            memory.append(self._memory(roles))
            sent = {name: warm[name] + number for name, number in barrage.fire(count).items()}
            self._until(lambda: self._dropped(sent) >= sum(sent.values()), _COUNT_S, "every message is counted")
            took_s, last = time.monotonic() - began, self._num_steps()
            repeated = barrage.replay(old_messages(RunPaths.of(config), count // 10, rng))
            barrage.knock()
            # Later than this line: what the repeats were is known by what comes of the run.
            self._until(lambda: self._num_steps() >= last + 3, _COUNT_S, "it goes on training")
            if keys:
                self._until(lambda: min(self._refused()) >= 1, _COUNT_S, "strangers are refused at every link")
            memory.append(self._memory(roles))
            wrong = [] if self._roles() == roles else [f"processes changed: {roles} became {self._roles()}"]
            assert self._num_steps() < self._steps, f"the run's {self._steps} steps were over too early: give more"
            dropped, refused = self._dropped(sent), sum(self._refused())
        finally:
            barrage.close()
        kind = "TCP with keys" if keys else "ipc"
        line = (
            f"real run over {kind}: {len(sent)} listening sockets, {sum(sent.values()):,} spoiled messages in "
            f"{took_s:.0f} s, {dropped:,.0f} dropped and counted, steps {first} -> {last} meanwhile; {repeated:,} old "
            f"ones sent again, strangers refused {refused:.0f} times, then on to step {self._steps}"
        )
        lines = [line]
        for name in sorted(roles):
            before, warm_mib, after = (sizes[name] for sizes in memory)
            lines.append(f"  {name}: RSS {before:.0f} MiB before, {warm_mib:.0f} warm, {after:.0f} at the end")
            if after > warm_mib + _GROWTH_MIB:
                wrong.append(f"{name} grew from {warm_mib:.0f} to {after:.0f} MiB")
        return lines, wrong + self._end()

    def _end(self) -> list[str]:
        """The run must reach its last step in good order, and its books must balance."""
        wrong: list[str] = []
        try:
            status = self._process.wait(60 + _STEP_S * (self._steps - self._num_steps()))
        except subprocess.TimeoutExpired:
            return [f"the run did not end\n{self.tail()}"]
        if status:
            wrong.append(f"the run ended with status {status}:\n{self.tail()}")
        summary = json.loads((self._folder / "summary.json").read_text("utf-8"))
        if summary["status"] != "done" or summary["steps"] != self._steps or summary.get("restarts"):
            wrong.append(f"the run came to {summary['status']}, {summary['steps']} steps: {summary.get('restarts')}")
        wrong += [text for text in summary.get("warnings", []) if "unexpected" in text]
        command = [sys.executable, "-m", "darts_async.cli", "replay", str(self._folder), "--check"]
        check = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        return wrong if check.returncode == 0 else [*wrong, f"the ledger: {check.stdout}{check.stderr}"]

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """The ends of everything that was logged."""
        texts = [self._output, *sorted((self._folder / "logs").glob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text('utf-8', 'replace')[-1500:]}" for path in texts if path.exists()
        )

    def _roles(self) -> dict[str, int]:
        """Process ids of the roles, by name."""
        found = {}
        for child in psutil.Process(self._process.pid).children():
            words = child.cmdline()
            role = next((word.removeprefix("actors.") for word in words if word.startswith("actors.")), None)
            if role is not None:
                found[f"{role}-{words[words.index('--rank') + 1]}"] = child.pid
        return found

    def _memory(self, roles: dict[str, int]) -> dict[str, float]:
        return {name: rss_mib(pid) for name, pid in roles.items()}

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

    def _refused(self) -> list[float]:
        return [float(value) for name, value in self._last_line().items() if name.endswith("/refused_peers")]

    def _until(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            alive = self._process.poll() is None
            assert alive and time.monotonic() < end, f"within {limit_s:g} s, or while the run lived, not seen: {what}"
            time.sleep(0.2)
