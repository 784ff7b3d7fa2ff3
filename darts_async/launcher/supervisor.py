"""Runs a topology from READY to the summary, and ends it whatever happens.

A run ends for the first of these causes: the allocator says it is complete; a person interrupts it; a role is lost for
good (`restarts` keeps the others alive), or not ready in time. Then every role is asked to drain, given a deadline, and
killed with its whole process group if it misses it. Invariant: when `launch` returns, no process, socket folder or
shared-memory file is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from darts_async.config.rules import JOIN_PORT, encrypts, parse_bind, warnings
from darts_async.errors import LinkBroken
from darts_async.launcher import shared_weights
from darts_async.launcher.joiners import JoinedRole, Joiners
from darts_async.launcher.live import LiveRun
from darts_async.launcher.metrics_out import MetricsOut
from darts_async.launcher.preflight import Plan
from darts_async.launcher.restarts import RoleKeeper, Told
from darts_async.launcher.role_gauges import merged
from darts_async.launcher.roles import RoleProcess, Starter
from darts_async.launcher.run_lock import RunLock
from darts_async.launcher.view import View
from darts_async.messages import (
    LEDGER_STATES,
    SCHEMA_VERSION,
    Begin,
    EvalResult,
    Fault,
    Finished,
    FromSupervisor,
    Heartbeat,
    KnobsTaken,
    Ready,
    RoleLost,
    RunComplete,
    StepMetrics,
    Stop,
    ToSupervisor,
    Warn,
)
from darts_async.runtime.join_link import JoinHub
from darts_async.runtime.record import RunRecord, Status
from darts_async.runtime.run_files import RunFiles
from darts_async.runtime.run_keys import JOIN, RunKeys
from darts_async.runtime.run_starts import BEAT_S
from darts_async.runtime.sockets import ControlHub
from darts_async.runtime.topology import Topology, endpoints
from darts_async.runtime.traces import finish_trace

_FAULT_DRAIN_S = 3.0
"""After a fault there is little to save: enough for the learner's checkpoint of a small model and the ledger."""

_LAST_REPORT_S = 0.5
"""For what a role said before it ended to be read."""


async def launch(plan: Plan, view: View, *, signals: bool = True) -> dict[str, Any]:
    """Run a plan to its end; return the summary that was written. The view is told what happens.

    `signals`: take SIGINT and SIGTERM of this process meanwhile (main thread only). To be cancelled is the same as an
    interrupt: the first time the run drains, the second time its processes are killed. `CancelledError` comes after it.
    """
    supervisor = _Supervisor(plan, view)
    cancelled: asyncio.CancelledError | None = None
    with _signals_taken(supervisor.interrupt) if signals else contextlib.nullcontext():
        running = asyncio.create_task(supervisor.run())
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError as error:
                supervisor.interrupt()
                cancelled = error
    summary = running.result()
    if cancelled is not None:
        raise cancelled
    return summary


@contextlib.contextmanager
def _signals_taken(interrupt: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield
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
        self._begun = False
        self._cause: asyncio.Future[tuple[Status, str]] = asyncio.get_running_loop().create_future()
        self._force = asyncio.Event()
        self._joiners: Joiners | None = None
        self._out = MetricsOut(
            plan,
            roles=lambda: self._roles,
            live=lambda: self._live.knobs.config,
            warn=self._warn,
            note=view.note,
        )
        self._summary: dict[str, Any] | None = None
        self._files = RunFiles(plan.paths, self._record, plan.history, self._out.line)

    def interrupt(self) -> None:
        """Ctrl-C: the first one drains, the second one kills."""
        if self._cause.done():
            self._force.set()
        else:
            self._view.note("interrupted: draining (press Ctrl-C again to kill at once)")
            self._cause.set_result(("interrupted", "interrupted by the user"))

    async def run(self) -> dict[str, Any]:
        lock = self._plan.lock or RunLock.take(self._paths.root)
        try:
            return await self._run(lock)
        finally:
            lock.release()

    async def _run(self, lock: RunLock) -> dict[str, Any]:
        folder = tempfile.mkdtemp(prefix="darts-")  # this user's alone, and with it the sockets in it
        control_endpoints = endpoints(parse_bind(self._config.launch.bind), folder)
        keys = RunKeys.create(self._paths.keys, join=self._config.launch.join > 0) if encrypts(self._config) else None
        self._control = ControlHub(control_endpoints["control"], self._config, keys)
        topology_file = Path(folder) / "topology.json"
        lock.bound(Path(folder))
        resumes = 0 if self._plan.history is None else len(self._plan.history.starts)
        starter = Starter(self._config, self._paths, topology_file, lock, resumes=resumes)
        self._keeper = RoleKeeper(self._config, starter, Told(self._broadcast, self._restarting, self._fail))
        self._live = LiveRun(
            self._config,
            self._paths,
            self._record,
            roles=lambda: self._roles,
            send=self._tell,
            warn=self._warn,
            earlier_s=sum(start.wall_s for start in ([] if self._plan.history is None else self._plan.history.starts)),
        )
        self._view.attached(self._live.status)
        tasks: list[asyncio.Task[None]] = []
        try:
            topology = Topology(
                config=str(self._paths.resolved_config),
                endpoints=control_endpoints,
                keys=str(keys.folder) if keys is not None else "",
                resumed=self._plan.history is not None,
            )
            topology_file.write_bytes(msgspec.json.encode(topology))
            self._out.open()
            if self._plan.history is not None:
                self._warn(f"the run goes on after step {self._plan.history.version}/{self._config.run.steps}")
            self._open_to_joiners(keys)
            await self._keeper.start()
            self._view.roles(self._keeper.roles.values())
            working = (
                self._keeper.keep(),
                self._listen(),
                self._expect_ready(),
                self._live.serve(Path(folder)),
                self._beat(),
                *([] if self._joiners is None else [self._joiners.serve()]),
            )
            tasks = [asyncio.create_task(work) for work in working]
            for task in tasks:
                task.add_done_callback(self._task_ended)
            status, reason = await self._cause
            if failure := await self._wind_down(status):
                status, reason = ("failed", failure) if status == "done" else (status, reason)
            self._summary = self._summarise(status, reason)
            return self._summary
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # before the killing: nothing is started any more
            self._keeper.kill_all()
            await self._keeper.all_exited()
            await self._out.close(self._summary, self._force)
            await self._live.close()
            if self._joiners is not None:
                await self._joiners.close()
            await self._control.close(0.2)
            if keys is not None:
                keys.remove()
            self._files.close()
            shutil.rmtree(folder, ignore_errors=True)
            shared_weights.remove(self._paths.weights)
            if problem := await asyncio.to_thread(finish_trace, self._paths.root):
                self._view.note(problem)

    def _open_to_joiners(self, keys: RunKeys | None) -> None:
        """Listen for generators from elsewhere, where the config says so."""
        address = parse_bind(self._config.launch.bind)
        if self._config.launch.join and keys is not None and address is not None:
            host, port = address
            hub = JoinHub(f"tcp://{host}:{port + JOIN_PORT}", keys)
            self._joiners = Joiners(
                self._config,
                self._paths,
                hub,
                lost=self._keeper.lost_elsewhere,
                changed=self._crew_changed,
                num_losses=lambda: self._keeper.num_losses,
            )
            self._view.note(f"open to generators: darts-async join tcp://{host}:{port} --keys {keys.folder / JOIN}")

    @property
    def _roles(self) -> dict[str, RoleProcess]:
        """All that take part, by name."""
        return self._keeper.roles | ({} if self._joiners is None else dict(self._joiners.roles))

    def _crew_changed(self, what: str) -> None:
        """A generator from elsewhere has come or gone."""
        self._warn(what)
        self._view.crew(self._roles.values())

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A bug in the launcher itself must end the run too, with its own name on it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(f"the launcher failed: {type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if not self._cause.done():
            self._cause.set_result(("failed", reason))

    def _restarting(self, why: str) -> None:
        self._warn(why)
        self._record.restarts = dict(self._keeper.restarts)
        self._view.refresh()

    def _warn(self, text: str) -> None:
        self._record.warnings.append(text)
        del self._record.warnings[len(self._config_warnings) : -100]
        self._view.note(text)

    async def _expect_ready(self) -> None:
        deadline_s = self._config.launch.ready_timeout_s
        await asyncio.sleep(deadline_s)
        if self._begun:
            return
        if missing := [role.name for role in self._keeper.roles.values() if not role.ready]:
            self._fail(
                f"not ready after launch.ready_timeout_s = {deadline_s:g} s: {', '.join(missing)}; "
                f"logs in {self._paths.logs}"
            )

    async def _beat(self) -> None:
        """So that a start that is cut off has its time in the summary."""
        while True:
            with contextlib.suppress(OSError):  # it only tells people how long the run has lasted
                self._files.beat()
            await asyncio.sleep(BEAT_S)

    async def _listen(self) -> None:
        while True:
            peer, message = await self._control.link.recv()
            role = self._roles.get(peer)
            if role is not None and not (role.gone and role.said_last.is_set()):
                if not isinstance(role, JoinedRole):
                    self._keeper.heard(role)
                elif self._joiners is None or not self._joiners.takes(role, message):
                    continue
                await self._take(role, message)

    async def _take(self, role: RoleProcess, message: ToSupervisor) -> None:
        match message:
            case Heartbeat():
                role.state, role.gauges = message.state, message.gauges
                self._out.heard(role)
                self._live.heard(role, message)
                self._view.refresh()
            case KnobsTaken():
                self._live.taken(role, message)
            case Ready():
                await self._ready(role, message)
            case StepMetrics():
                self._step(message)
            case EvalResult():
                if self._files.evaluated(message):
                    self._view.evaluated(message)
                    self._out.evaluated(message)
            case Warn():
                self._warn(f"{role.name}: {message.text}")
            case Finished():
                role.finishes()
                self._record.add_finished(message)
            case RunComplete():
                if not self._cause.done():
                    self._cause.set_result(("done", ""))
            case Fault():
                self._keeper.faulted(role, message)

    async def _ready(self, role: RoleProcess, message: Ready) -> None:
        if isinstance(role, JoinedRole):
            role.ready = True
            self._view.note(f"{role.name} is ready")
            if self._begun:
                await self._welcome(role)
            return
        if message.schema_version != SCHEMA_VERSION:
            self._fail(
                f"{role.name} speaks message schema {message.schema_version}, the launcher {SCHEMA_VERSION}: "
                "two versions of darts-async are installed"
            )
            return
        role.ready = True
        self._view.ready(role)
        if self._begun:
            await self._welcome(role)
        elif all(other.ready for other in self._keeper.roles.values()):
            self._begun = True
            if self._joiners is not None:
                self._joiners.state = "running"
            self._view.begun()
            await self._broadcast(Begin())
            self._live.begun()

    def _step(self, report: StepMetrics) -> None:
        gauges = self._control.gauges() | merged(self._roles.values()) | self._out.gauges()
        self._out.reported(report)
        values = self._files.step(report, gauges)
        if values is not None:
            self._view.step(report.step, values)

    async def _welcome(self, newcomer: RoleProcess) -> None:
        """A role is back: it hears whom it has missed the loss of, and begins."""
        keeper = self._keeper
        missed = keeper.since(newcomer.num_losses) if isinstance(newcomer, JoinedRole) else keeper.missed_by(newcomer)
        for loss in missed:
            await self._tell(newcomer, loss)
        for order in self._live.knobs.for_newcomer(newcomer):
            await self._tell(newcomer, order)
        await self._tell(newcomer, Begin())
        if not isinstance(newcomer, JoinedRole):
            self._view.note(f"{newcomer.name} is back")

    async def _broadcast(self, message: Begin | Stop | RoleLost) -> None:
        joined = [] if self._joiners is None else self._joiners.roles.values()
        for role in (*self._keeper.present, *joined):
            if role.ready or not isinstance(message, Begin):
                await self._tell(role, message)

    async def _tell(self, role: RoleProcess, message: FromSupervisor) -> None:
        with contextlib.suppress(LinkBroken):  # it never connected, or is gone: the keeper sees to that
            await self._control.link.send(role.name, message)

    async def _wind_down(self, status: Status) -> str:
        """Ask everyone to drain, wait, kill the rest. Return what went wrong meanwhile, or an empty string."""
        self._live.ends()
        if self._joiners is not None:
            self._joiners.state = "ending"
        reason = {"done": "done", "interrupted": "interrupted", "failed": "fault"}[status]
        if not self._begun:
            return ""  # nothing was dispatched, nothing is to be drained
        excused = {role.name for role in self._keeper.roles.values() if not role.ready}
        await self._keeper.wind_down()
        await self._broadcast(Stop(reason=reason))  # type: ignore[arg-type] # one of the three literals
        limit = _FAULT_DRAIN_S if status == "failed" else self._config.launch.drain_timeout_s
        exits = asyncio.create_task(self._keeper.all_exited())
        forced = asyncio.create_task(self._force.wait())
        await asyncio.wait({exits, forced}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (exits, forced):
            waiter.cancel()
        await asyncio.gather(exits, forced, return_exceptions=True)
        late = [role for role in self._keeper.roles.values() if not role.finished and role.name not in excused]
        # A role's last report may still be on its way through the socket when its exit is seen.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_REPORT_S):
                for role in late:
                    await role.said_last.wait()
        late = [role for role in late if not role.finished]
        if "selector-0" in excused and status == "done":
            return "the selector was being restarted when the run ended: its books are not closed"
        if not late or status == "failed":
            return ""
        return "; ".join(f"{role.name} {role.exit_text} while draining (log: {role.log})" for role in late)

    def _summarise(self, status: Status, reason: str) -> dict[str, Any]:
        if not self._begun and self._plan.history is None:
            zeros = {f"{part}/{key}": 0.0 for part in ("rollouts", "tokens") for key in ("generated", *LEDGER_STATES)}
            self._record.add_finished(Finished(role="selector", rank=0, summary=zeros))
        changed = {key: change.new for key, change in self._live.knobs.changed.items()}
        return self._files.summarise(status, reason, set_live=changed, stalls=self._live.watchdog.num_stalls)
