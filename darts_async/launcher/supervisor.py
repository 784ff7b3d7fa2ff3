"""Runs a topology from READY to the summary, and ends it whatever happens.

A run ends for the first of these causes: the allocator says it is complete; a person interrupts it; a role faults,
dies or is not ready in time. Then every role is asked to drain, given a deadline, and killed with its whole process
group if it misses it. Invariant: when `launch` returns, no process, socket folder or shared-memory file is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from darts_async.config.rules import parse_bind, warnings
from darts_async.errors import LinkBroken
from darts_async.launcher import shared_weights
from darts_async.launcher.preflight import Plan
from darts_async.launcher.roles import RoleProcess, spawn_roles
from darts_async.launcher.view import View
from darts_async.messages import (
    LEDGER_STATES,
    SCHEMA_VERSION,
    Begin,
    EvalResult,
    Fault,
    Finished,
    Heartbeat,
    Ready,
    RunComplete,
    StepMetrics,
    Stop,
    ToSupervisor,
    Warn,
)
from darts_async.runtime.record import RunRecord, Status
from darts_async.runtime.run_files import RunFiles
from darts_async.runtime.sockets import ControlHub
from darts_async.runtime.topology import Topology, endpoints

_FAULT_DRAIN_S = 3.0
"""After a fault there is little to save: enough for the learner's checkpoint of a small model and the ledger."""

_DEATH_NEWS_S = 0.5
"""A killed process is noticed within milliseconds, on a busy machine within tenths of a second."""


async def launch(plan: Plan, view: View) -> dict[str, Any]:
    """Run a plan to its end; return the summary that was written. The view is told what happens."""
    supervisor = _Supervisor(plan, view)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, supervisor.interrupt)
    try:
        return await supervisor.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Supervisor:
    def __init__(self, plan: Plan, view: View) -> None:
        self._plan = plan
        self._config = plan.config
        self._paths = plan.paths
        self._view = view
        self._config_warnings = warnings(plan.config)
        self._record = RunRecord(warnings=list(self._config_warnings))
        self._roles: dict[str, RoleProcess] = {}
        self._begun = False
        self._cause: asyncio.Future[tuple[Status, str]] = asyncio.get_running_loop().create_future()
        self._force = asyncio.Event()
        self._all_finished = asyncio.Event()
        self._blames: list[asyncio.Task[None]] = []
        self._files = RunFiles(plan.paths, self._record)

    def interrupt(self) -> None:
        """Ctrl-C: the first one drains, the second one kills."""
        if self._cause.done():
            self._force.set()
        else:
            self._view.note("interrupted: draining (press Ctrl-C again to kill at once)")
            self._cause.set_result(("interrupted", "interrupted by the user"))

    async def run(self) -> dict[str, Any]:
        folder = tempfile.mkdtemp(prefix="darts-")
        control_endpoints = endpoints(parse_bind(self._config.launch.bind), folder)
        self._control = ControlHub(control_endpoints["control"])
        tasks: list[asyncio.Task[None]] = []
        try:
            topology = Topology(config=str(self._paths.resolved_config), endpoints=control_endpoints)
            topology_file = Path(folder) / "topology.json"
            topology_file.write_bytes(msgspec.json.encode(topology))
            for role in await spawn_roles(self._config, self._paths, topology_file):
                self._roles[role.name] = role
            self._view.roles(self._roles.values())
            tasks = [asyncio.create_task(self._watch(role)) for role in self._roles.values()]
            tasks += [asyncio.create_task(self._listen()), asyncio.create_task(self._expect_ready())]
            for task in tasks:
                task.add_done_callback(self._task_ended)
            status, reason = await self._cause
            if failure := await self._wind_down(status):
                status, reason = ("failed", failure) if status == "done" else (status, reason)
            return self._summarise(status, reason)
        finally:
            tasks += self._blames
            for task in tasks:
                task.cancel()
            for role in self._roles.values():
                role.kill()
            await asyncio.gather(*(role.process.wait() for role in self._roles.values()))
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._control.close(0.2)
            self._files.close()
            shutil.rmtree(folder, ignore_errors=True)
            shared_weights.remove(self._paths.weights)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A bug in the launcher itself must end the run too, with its own name on it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(f"the launcher failed: {type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if not self._cause.done():
            self._cause.set_result(("failed", reason))

    async def _watch(self, role: RoleProcess) -> None:
        await role.process.wait()
        role.state = role.exit_text
        # What the role has left behind (an engine's child) dies with it.
        role.kill()
        if not role.finished and not role.fault:
            self._fail(f"{role.name} {role.exit_text}; its log: {role.log}")

    async def _blame(self, role: RoleProcess) -> None:
        """A fault may be the echo of another role's death, whose news is slower: that death is the reason then."""
        await asyncio.sleep(_DEATH_NEWS_S)
        self._fail(f"{role.name}: {role.fault}; its log: {role.log}")

    async def _all_exited(self) -> bool:
        for role in self._roles.values():
            await role.process.wait()
        return True

    async def _expect_ready(self) -> None:
        deadline_s = self._config.launch.ready_timeout_s
        await asyncio.sleep(deadline_s)
        if missing := [role.name for role in self._roles.values() if not role.ready]:
            self._fail(
                f"not ready after launch.ready_timeout_s = {deadline_s:g} s: {', '.join(missing)}; "
                f"logs in {self._paths.logs}"
            )

    async def _listen(self) -> None:
        while True:
            peer, message = await self._control.link.recv()
            role = self._roles.get(peer)
            if role is not None:
                await self._take(role, message)

    async def _take(self, role: RoleProcess, message: ToSupervisor) -> None:
        match message:
            case Heartbeat():
                role.state, role.gauges = message.state, message.gauges
                self._view.refresh()
            case Ready():
                await self._ready(role, message)
            case StepMetrics():
                self._step(message)
            case EvalResult():
                self._files.evaluated(message)
                self._view.evaluated(message)
            case Warn():
                self._record.warnings.append(f"{role.name}: {message.text}")
                del self._record.warnings[len(self._config_warnings) : -100]
                self._view.note(f"{role.name}: {message.text}")
            case Finished():
                role.finished = True
                self._record.add_finished(message)
                if all(other.finished for other in self._roles.values()):
                    self._all_finished.set()
            case RunComplete():
                if not self._cause.done():
                    self._cause.set_result(("done", ""))
            case Fault():
                role.fault = message.error
                self._blames.append(asyncio.create_task(self._blame(role)))

    async def _ready(self, role: RoleProcess, message: Ready) -> None:
        if message.schema_version != SCHEMA_VERSION:
            self._fail(
                f"{role.name} speaks message schema {message.schema_version}, the launcher {SCHEMA_VERSION}: "
                "two versions of darts-async are installed"
            )
            return
        role.ready = True
        self._view.ready(role)
        if not self._begun and all(other.ready for other in self._roles.values()):
            self._begun = True
            self._view.begun()
            await self._broadcast(Begin())

    def _step(self, report: StepMetrics) -> None:
        gauges: dict[str, float] = {}
        for role in self._roles.values():
            lag = role.gauges.get("loop_lag_p99_ms")
            gauges |= {name: value for name, value in role.gauges.items() if "/" in name}
            if lag is not None:
                gauges[f"{role.role}/loop_lag_p99_ms"] = lag
        values = self._files.step(report, gauges)
        if values is not None:
            self._view.step(report.step, values)

    async def _broadcast(self, message: Begin | Stop) -> None:
        for role in self._roles.values():
            with contextlib.suppress(LinkBroken):  # it never connected, or is gone: `_watch` says so
                await self._control.link.send(role.name, message)

    async def _wind_down(self, status: Status) -> str:
        """Ask everyone to drain, wait, kill the rest. Return what went wrong meanwhile, or an empty string."""
        reason = {"done": "done", "interrupted": "interrupted", "failed": "fault"}[status]
        if not self._begun:
            return ""  # nothing was dispatched, nothing is to be drained
        await self._broadcast(Stop(reason=reason))  # type: ignore[arg-type] # one of the three literals
        limit = _FAULT_DRAIN_S if status == "failed" else self._config.launch.drain_timeout_s
        exits = asyncio.create_task(self._all_exited())
        forced = asyncio.create_task(self._force.wait())
        await asyncio.wait({exits, forced}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (exits, forced):
            waiter.cancel()
        await asyncio.gather(exits, forced, return_exceptions=True)
        # A role's last report may still be on its way through the socket when its exit is seen.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_finished.wait(), timeout=0.5)
        late = [role for role in self._roles.values() if not role.finished]
        if not late or status == "failed":
            return ""
        return "; ".join(f"{role.name} {role.exit_text} while draining (log: {role.log})" for role in late)

    def _summarise(self, status: Status, reason: str) -> dict[str, Any]:
        if not self._begun:
            zeros = {f"{part}/{key}": 0.0 for part in ("rollouts", "tokens") for key in ("generated", *LEDGER_STATES)}
            self._record.add_finished(Finished(role="selector", rank=0, summary=zeros))
        return self._files.summarise(status, reason)
