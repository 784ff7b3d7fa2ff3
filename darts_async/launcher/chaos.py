"""`darts-async chaos`: a run under a seeded schedule of faults, and whether it came through.

The agent carries the schedule out on the run's own processes (`faults` sees to that) while the ordinary launcher runs
the job. It came through when it reached its steps, every fault was carried out and recovered from, the audit of its
ledger finds nothing, and no process of it is left.

The clock of a recovery: from a kill to the first step that was trained after the role was ready again; from the end of
a stop or a delay (who stands still cannot recover) to the first step after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from darts_async.algorithms.chaos_schedule import Fault
from darts_async.launcher import faults
from darts_async.launcher.preflight import Plan
from darts_async.launcher.run_watch import RunWatch
from darts_async.launcher.supervisor import launch
from darts_async.launcher.view import View

__all__ = ["ChaosAgent", "ChaosResult", "Outcome", "Recovery", "run_chaos"]

_CYCLE_S: Final = 0.2
"""Of a delay: stopped for half of it, running for the other half."""
_REAP_S: Final = 5.0
"""How long the kernel may take to clear away what was killed."""


@dataclass(slots=True)
class Outcome:
    """What became of one fault."""

    fault: Fault
    at_s: float | None = None
    """From the moment all roles were ready; None: it was not carried out."""
    back_s: float | None = None
    """Until the role was ready again; None for who only stood still."""
    trained_s: float | None = None
    """Until the first step that was trained with the role back: the recovery time."""
    note: str = ""


class ChaosAgent:
    """Carries out a schedule on one run. `run` once; it may be cancelled, and leaves nobody stopped."""

    def __init__(
        self,
        schedule: Sequence[Fault],
        watch: RunWatch,
        *,
        recover_s: float,
        overlap: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """recover_s: longest recovery; after it the agent gives the run up."""
        self.outcomes = [Outcome(fault) for fault in schedule]
        self._watch = watch
        self._recover_s = recover_s
        self._overlap = overlap
        self._note = note

    async def run(self) -> bool:
        """Return when every fault was carried out and recovered from; False when a recovery took too long."""
        watch = self._watch
        await watch.until(lambda: watch.num_steps > 0)
        async with asyncio.TaskGroup() as tasks:
            under_way = []
            for outcome in self.outcomes:
                await asyncio.sleep(outcome.fault.gap_s)
                fault = tasks.create_task(self._carry_out(outcome))
                under_way.append(fault)
                if not self._overlap and not await fault:
                    break
            return all([await fault for fault in under_way])

    async def _carry_out(self, outcome: Outcome) -> bool:
        watch, fault = self._watch, outcome.fault
        role = watch.processes[fault.target]
        starts = watch.times_ready[fault.target]
        outcome.at_s = time.monotonic() - watch.begun_s
        try:
            pid = await self._strike(outcome)
        except faults.NotOurs as gone:
            # Somebody else ended it first (an overlapping fault, the launcher): nothing was done.
            outcome.note = str(gone)
            pid = role.process.pid
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._recover_s):
                if fault.kind == "kill" or self._is_gone(fault.target, pid):
                    await watch.until(lambda: watch.times_ready[fault.target] > starts)
                    outcome.back_s = time.monotonic() - began
                steps = watch.num_steps
                await watch.until(lambda: watch.num_steps > steps)
                outcome.trained_s = time.monotonic() - began
        except TimeoutError:
            missing = "no step trained" if watch.times_ready[fault.target] > starts else "not back, or no step trained"
            outcome.note = f"{missing} within {self._recover_s:g} s"
            self._note(f"chaos: {fault.target}: {outcome.note}; giving the run up")
            return False
        self._note(f"chaos: recovered from {_words(fault)} in {outcome.trained_s:.1f} s")
        return True

    async def _strike(self, outcome: Outcome) -> int:
        """Do it; return the process it was done to. Raises `NotOurs`."""
        fault = outcome.fault
        role = self._watch.processes[fault.target]
        self._note(f"chaos: {_words(fault)}")
        if fault.kind == "kill":
            return faults.kill(role)
        until = time.monotonic() + fault.lasts_s
        if fault.kind == "stop":
            with faults.frozen(role) as pid:
                await asyncio.sleep(fault.lasts_s)
            return pid
        pid = faults.pid_of(role)
        while time.monotonic() < until:
            with faults.frozen(role):
                await asyncio.sleep(_CYCLE_S / 2)
            await asyncio.sleep(_CYCLE_S / 2)
        return pid

    def _is_gone(self, target: str, pid: int) -> bool:
        """Whether the process has ended meanwhile: a launcher takes who is silent for long for dead."""
        try:
            return faults.pid_of(self._watch.processes[target]) != pid
        except faults.NotOurs:
            return True


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long the recoveries from some faults took."""

    faults: int
    recovered: int
    median: float | None
    worst: float | None

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Recovery:
        """Of these faults; the times are None when none was recovered from."""
        times = [outcome.trained_s for outcome in outcomes if outcome.trained_s is not None]
        median = statistics.median(times) if times else None
        return cls(len(outcomes), len(times), median, max(times, default=None))


@dataclass(slots=True)
class ChaosResult:
    """What a run under faults came to."""

    summary: dict[str, Any]
    outcomes: list[Outcome]
    wanted_steps: int
    processes_left: list[int]
    gave_up: bool = False
    """A recovery took too long, and the run was ended for it."""

    @property
    def recoveries_s(self) -> list[float]:
        """Of the faults that were recovered from."""
        return [outcome.trained_s for outcome in self.outcomes if outcome.trained_s is not None]

    @property
    def problems(self) -> list[str]:
        """Why the run did not come through, the audit's findings aside; empty when it did."""
        found = []
        if self.summary["status"] != "done":
            reason = self.summary.get("reason", "")
            found.append(f"the run {self.summary['status']}" + (f": {reason}" if reason else ""))
        elif self.summary["ended_by"] == "steps" and self.summary["steps"] < self.wanted_steps:
            found.append(f"{self.summary['steps']} of {self.wanted_steps} steps were reported")
        if undone := sum(outcome.at_s is None for outcome in self.outcomes):
            what = f"{undone} of {len(self.outcomes)} faults were not carried out before the run ended"
            found.append(f"{what}; a larger run.steps gives them time")
        unrecovered = sum(outcome.at_s is not None and outcome.trained_s is None for outcome in self.outcomes)
        if unrecovered:
            found.append(f"{unrecovered} of {len(self.outcomes)} faults were not seen to be recovered from")
        if self.processes_left:
            found.append(f"{len(self.processes_left)} processes are left: {self.processes_left}")
        return found

    @property
    def recovery(self) -> dict[str, Recovery]:
        """By role and kind of fault (`kill of learner`), in the order of the first ones."""
        by_name: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            role = outcome.fault.target.rpartition("-")[0]
            by_name.setdefault(f"{outcome.fault.kind} of {role}", []).append(outcome)
        return {name: Recovery.of(outcomes) for name, outcomes in by_name.items()}

    def as_json(self, violations: Sequence[str] = ()) -> dict[str, Any]:
        """For machines. violations: what the audit of the ledger found."""
        return {
            "status": self.summary["status"],
            "steps": self.summary["steps"],
            "wall_s": self.summary["wall_s"],
            "faults": [asdict(outcome) for outcome in self.outcomes],
            "recovery_s": asdict(Recovery.of(self.outcomes)),
            "recovery_by_role_s": {name: asdict(found) for name, found in self.recovery.items()},
            "problems": self.problems,
            "violations": list(violations),
        }


async def run_chaos(
    plan: Plan, view: View, schedule: Sequence[Fault], *, recover_s: float, overlap: bool = False
) -> ChaosResult:
    """Run a plan to its end under a schedule. The run folder exists."""
    watch = RunWatch(view)
    agent = ChaosAgent(schedule, watch, recover_s=recover_s, overlap=overlap, note=view.note)
    gave_up = False
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(launch(plan, watch))
        striking = tasks.create_task(agent.run())
        await asyncio.wait((running, striking), return_when=asyncio.FIRST_COMPLETED)
        if striking.done() and not running.done() and not striking.result():
            gave_up = True
            signal.raise_signal(signal.SIGINT)  # the launcher's own order to drain: whoever hangs is killed in time
        summary = await running
        striking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await striking
    for outcome in agent.outcomes:
        if outcome.at_s is not None and outcome.trained_s is None and not outcome.note:
            outcome.note = "the run ended first"
    return ChaosResult(summary, agent.outcomes, plan.config.run.steps, await _left(watch.groups), gave_up)


async def _left(groups: set[int]) -> list[int]:
    """What lives of these process groups after a moment."""
    deadline = time.monotonic() + _REAP_S
    while (left := faults.living(groups)) and time.monotonic() < deadline:  # noqa: ASYNC110 - no event of ours
        await asyncio.sleep(0.05)
    return left


def _words(fault: Fault) -> str:
    match fault.kind:
        case "kill":
            return f"kill of {fault.target}"
        case "stop":
            return f"stop of {fault.target} for {fault.lasts_s:g} s"
        case "delay":
            return f"delays of {fault.target} for {fault.lasts_s:g} s"
