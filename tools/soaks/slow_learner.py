"""A run whose learner stands still for a minute: the others must come to rest, and nothing may grow.

A real run, one process a role, simulated engine. Asked for: the generators stop decoding once what may be trained next
is there; resident memory of every role is flat while the learner is stopped; every queue stays within its bound, in
count and in bytes; then the run goes on to its steps, with nobody restarted.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from darts_async.algorithms.staleness import eta_of
from darts_async.config import Config, load_config
from darts_async.launcher import faults
from darts_async.launcher.accounts import Accounts
from darts_async.launcher.preflight import check, create_run_folder
from darts_async.launcher.run_watch import RunWatch
from darts_async.launcher.supervisor import launch
from darts_async.launcher.view import PlainView
from darts_async.runtime.link_limits import link_limits
from darts_async.transport.zmq_socket import INBOX_BYTES
from soaks.memory import rss_bytes
from soaks.result import Result, Row

MOST_GROWTH = 0.05
"""Of a role's resident memory, from the first third of the stop to its end, and from before to after."""
SLACK_BYTES = 4 << 20
"""What an interpreter's heap moves by anyway, on roles of some 60 MiB."""
_EVERY_S = 0.5
_RECOVER_S = 120.0
_WARM_STEPS = 10


@dataclass(frozen=True)
class Size:
    """How long each part takes."""

    steps: int
    before_s: float
    stop_s: float


FULL = Size(steps=400, before_s=30.0, stop_s=60.0)
QUICK = Size(steps=30, before_s=1.0, stop_s=6.0)


@dataclass
class Samples:
    """What was seen, by phase."""

    rss: dict[str, dict[str, list[int]]] = field(
        default_factory=lambda: {phase: {} for phase in ("before", "during", "after")}
    )
    """Phase, role, bytes."""
    queues: dict[str, float] = field(default_factory=dict)
    """The deepest that each queue was."""
    bounds: dict[str, float] = field(default_factory=dict)
    waiting_bytes: dict[str, float] = field(default_factory=dict)
    """The most that waited in the inbox of each link."""
    live_groups: float = 0.0
    running: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the stop, candidates that decode)."""


async def soak_slow_learner(config: Config, size: Size, said: Callable[[str], None]) -> Result:
    """Run it. `said` takes a line of progress."""
    plan = check(config, None)
    create_run_folder(plan)
    began = time.monotonic()
    with (plan.paths.root / "view.txt").open("w") as sink:
        watch = RunWatch(PlainView(Console(file=sink, width=160), config.run.steps))
        soak = _Soak(config, size, watch, said)
        running = asyncio.create_task(launch(plan, watch))
        striking = asyncio.create_task(soak.work())
        try:
            await asyncio.wait((running, striking), return_when=asyncio.FIRST_COMPLETED)
            summary = await running
        finally:
            striking.cancel()
            await asyncio.gather(striking, return_exceptions=True)
    if striking.done() and not striking.cancelled() and (error := striking.exception()):
        raise error
    if summary["status"] == "interrupted":
        raise KeyboardInterrupt  # the launcher took the signal for itself
    return soak.result(summary, time.monotonic() - began)


class _Soak:
    def __init__(self, config: Config, size: Size, watch: RunWatch, said: Callable[[str], None]) -> None:
        self._config, self._size, self._watch, self._said = config, size, watch, said
        self._accounts = Accounts()
        self.seen = Samples()
        self.recovery_s: float | None = None
        self.steps_while_stopped = 0

    async def work(self) -> None:
        watch, size = self._watch, self._size
        await watch.until(lambda: watch.num_steps >= min(_WARM_STEPS, size.steps // 4))
        self._said(f"warm after {watch.num_steps} steps; {size.before_s:g} s of training")
        await self._sample("before", size.before_s)
        learner = watch.processes["learner-0"]
        with faults.frozen(learner):
            self._said(f"the learner is stopped for {size.stop_s:g} s (after {watch.num_steps} steps)")
            await asyncio.sleep(_EVERY_S)
            steps = watch.num_steps
            await self._sample("during", size.stop_s - _EVERY_S)
            self.steps_while_stopped = watch.num_steps - steps
        again, steps = time.monotonic(), watch.num_steps
        async with asyncio.timeout(_RECOVER_S):
            await watch.until(lambda: watch.num_steps > steps)
        self.recovery_s = time.monotonic() - again
        self._said(f"trained again after {self.recovery_s:.1f} s; on to step {size.steps}")
        while True:
            await self._sample("after", _EVERY_S)

    async def _sample(self, phase: str, seconds: float) -> None:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            roles = self._watch.processes
            of_group = {name: [role.process.pid, *faults.living([role.process.pid])] for name, role in roles.items()}
            for name, pids in of_group.items():
                self.seen.rss[phase].setdefault(name, []).append(sum(map(rss_bytes, set(pids))))
            for line in self._accounts.queue_lines(roles.values(), self._config, time.monotonic()):
                self.seen.queues[line.name] = max(self.seen.queues.get(line.name, 0.0), line.depth)
                self.seen.bounds[line.name] = line.bound
            for role in roles.values():
                for gauge, value in role.gauges.items():
                    if gauge.startswith("link/") and gauge.endswith("/waiting_bytes"):
                        link = gauge.split("/")[1]
                        self.seen.waiting_bytes[link] = max(self.seen.waiting_bytes.get(link, 0.0), value)
            live = roles["allocator-0"].gauges.get("allocator/live_groups", 0.0)
            self.seen.live_groups = max(self.seen.live_groups, live)
            if phase == "during":
                decoding = sum(role.gauges.get("generator/running", 0.0) for role in roles.values())
                self.seen.running.append((passed, decoding))
            await asyncio.sleep(_EVERY_S)

    def result(self, summary: dict[str, Any], seconds: float) -> Result:
        """Judge it."""
        config, size, seen = self._config, self._size, self.seen
        problems = []
        if summary["status"] != "done" or summary["steps"] != size.steps:
            problems.append(f"the run {summary['status']} after {summary['steps']} steps: {summary.get('reason', '')}")
        if self.recovery_s is None:
            problems.append("nothing was trained after the stop")
        if self.steps_while_stopped:
            problems.append(f"{self.steps_while_stopped} steps were trained while the learner was stopped")
        if any(summary.get("restarts", {}).values()):
            problems.append(f"somebody was restarted: {summary['restarts']}")
        paused_s = next((s for s, _ in seen.running if not any(n for at, n in seen.running if at >= s)), None)
        if paused_s is None:
            problems.append("the generators went on decoding")
        growth = {name: self._growth(name) for name in seen.rss["during"]}
        slack = {name: SLACK_BYTES / max(min(sizes), 1) for name, sizes in seen.rss["during"].items()}
        for name, (while_stopped, over_all) in growth.items():
            # A short soak begins before the learner's memory has settled.
            judged = while_stopped if size is QUICK else max(while_stopped, over_all)
            if judged > max(MOST_GROWTH, slack[name]):
                problems.append(f"memory of {name} grew: {while_stopped:+.1%} in the stop, {over_all:+.1%} over it")
        bounds = self._bounds()
        for name, depth in {**seen.queues, "live_groups": seen.live_groups}.items():
            if depth > bounds[name]:
                problems.append(f"{depth:g} in {name}, above its bound of {bounds[name]:g}")
        limits = self._byte_limits(config)
        for link, most in seen.waiting_bytes.items():
            if most > limits[link]:
                problems.append(f"{most:,.0f} bytes wait at {link}, above the bound of {limits[link]:,}")
        worst = max(growth.items(), key=lambda item: item[1][0], default=("nobody", (float("nan"), 0.0)))
        during = ", ".join(f"{name} {change:+.1%}" for name, (change, _) in growth.items())
        after = ", ".join(f"{name} {change:+.1%}" for name, (_, change) in growth.items())
        paused = "never" if paused_s is None else f"after {paused_s:.1f} s"
        row = Row(
            fault=f"learner stopped for {size.stop_s:g} s (SIGSTOP)",
            times=1,
            outcome=f"generators pause {paused}, no queue above its bound in count or bytes, {summary['steps']} of "
            f"{size.steps} steps trained",
            median_s=self.recovery_s,
            worst_s=self.recovery_s,
            memory=f"in the stop: {during}; from before to after: {after}",
        )
        figures = {
            "growth": {name: {"in_stop": a, "before_to_after": b} for name, (a, b) in growth.items()},
            "worst": worst[0],
            "queues": {
                name: {"deepest": depth, "bound": bounds[name]}
                for name, depth in {**seen.queues, "live_groups": seen.live_groups}.items()
            },
            "link_bytes": {link: {"most": most, "bound": limits[link]} for link, most in seen.waiting_bytes.items()},
            "rss_mib": {
                phase: {name: round(statistics.median(sizes) / 2**20, 2) for name, sizes in roles.items()}
                for phase, roles in seen.rss.items()
            },
            "paused_s": paused_s,
        }
        return Result("slow-learner", [row], seconds, problems, size is QUICK, figures)

    def _growth(self, name: str) -> tuple[float, float]:
        """While the learner is stopped (after its first third, in which queues fill), and from before to after."""
        during = self.seen.rss["during"][name]
        third = max(1, len(during) // 3)
        early, late = statistics.median(during[third : 2 * third] or during), statistics.median(during[-third:])
        before, after = self.seen.rss["before"].get(name), self.seen.rss["after"].get(name)
        over_all = statistics.median(after) / statistics.median(before) - 1 if before and after else 0.0
        return late / early - 1, over_all

    def _bounds(self) -> dict[str, float]:
        """A group that is ready waits on the link, or in the selector for room there: both ends tell of it."""
        config = self._config
        admitted = (eta_of(config) + 1) * config.group.groups_per_step + config.queues.oversample_groups
        return {**self.seen.bounds, "ready_groups": config.queues.ready_groups + admitted, "live_groups": admitted}

    @staticmethod
    def _byte_limits(config: Config) -> dict[str, int]:
        return {name: max(INBOX_BYTES, to_binder) for name, (to_binder, _) in link_limits(config).items()}


def run(*, quick: bool, folder: Path, said: Callable[[str], None]) -> Result:
    """The soak in processes of its own; the run's folder is kept below `folder`."""
    size = QUICK if quick else FULL
    settings = {
        "run.dir": str(folder),
        "run.name": "slow-learner",
        "run.steps": str(size.steps),
        "generator.engine": "sim",
        "generator.engine_args.token_s": "0.002",
        "eval.prompts": "0",
        "learner.lr": "0",
        # Longer than it stands still: who is silent for longer is taken for dead.
        "launch.silence_s": "600",
        "launch.stall_s": "600",
    }
    config = load_config(None, list(settings.items()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak_slow_learner(config, size, said))
