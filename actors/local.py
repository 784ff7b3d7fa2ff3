"""All roles in one process and one event loop, over in-memory links: the same actors without sockets.

For tests, benchmarks and simulation. What the launcher does between processes happens here between tasks: READY
barrier, stop, reports. An engine and a trainer can be handed in, so that many runs share one engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from actors import allocator, generator, learner, selector
from darts_async import clock
from darts_async.algorithms.wait_graph import Explanation, explain
from darts_async.config import Config
from darts_async.messages import Begin, Finished, KnobChange, Message, Role, RoleLost, RunComplete, SetKnobs
from darts_async.runtime.link_limits import link_limits
from darts_async.runtime.links import AllocatorLinks, GeneratorLinks, LearnerLinks, SelectorLinks
from darts_async.runtime.topology import CONTROL_HWM, LINKS, LinkName
from darts_async.runtime.traces import open_trace
from darts_async.runtime.waiting import Ages, Look, nothing
from darts_async.tracing import RoleTrace, TraceFile, record_as, trace_of
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange, MemoryStream

if TYPE_CHECKING:
    from darts_async.engines.base import RolloutEngine
    from darts_async.runtime.reward_pool import Pool
    from darts_async.tasks.prompt_set import PromptSet

Report = Callable[[Message], None]
ROLE: ContextVar[str] = ContextVar("role", default="")
"""`generator`, `selector`, `allocator` or `learner` in whatever runs for a role: who causes what is measured."""


class LocalRun:
    """One run in this process. `stop` may be called at any time; reports go to the callback in order, `Begin` first."""

    def __init__(self, config: Config, report: Report, *, encode: bool = True, run_id: str = "") -> None:
        """encode: messages travel as bytes, so that one that could not leave the process is noticed. run_id: of the
        ledger; by chance if not given."""
        self._run_id = run_id
        self._config = config
        self._encode = encode
        self._report = report
        self._limits = link_limits(config)
        self._roles: dict[str, _LocalRole] = {}
        self._tasks = asyncio.TaskGroup()
        self._num_ready = 0
        self._num_set = 0
        self._began_s = clock.now_s()
        self._begun = asyncio.Event()
        self._trace_file: TraceFile | None = None

    async def run(
        self,
        *,
        engines: list[RolloutEngine] | None = None,
        trainer: Any = None,
        pool: Pool | None = None,
        prompts: PromptSet | None = None,
    ) -> None:
        """Run until the allocator says the run is complete, or `stop`. Raises what a role raises.

        `engines` (one a replica), `trainer`, reward `pool` and `prompts` are used as they are; without them the roles
        make their own.
        """
        config = self._config
        self._trace_file = open_trace(config, "roles")
        hwm = {"trajectories": config.queues.trajectory_hwm, "groups": config.queues.ready_groups}
        streams = {n: self._stream(n, hwm.get(n, CONTROL_HWM)) for n, spec in LINKS.items() if spec.kind == "stream"}
        hubs = {n: self._hub(n) for n, spec in LINKS.items() if spec.kind == "hub" and n != "control"}
        for rank in range(config.generator.replicas):

            def generate(supervisor: _LocalSupervisor, rank: int = rank) -> Coroutine[Any, Any, None]:
                links = GeneratorLinks(
                    rank=rank,
                    rollouts=hubs["rollouts"].dealer(supervisor.name),
                    trajectories=streams["trajectories"].sender(),
                    cancels=hubs["cancels"].dealer(supervisor.name),
                    policy=hubs["policy"].dealer(supervisor.name),
                    chunks=streams["chunks"].sender(),
                    supervisor=supervisor,
                )
                return generator.run(links, config, engines[rank] if engines else None)

            self._add("generator", rank, generate)

        def select(supervisor: _LocalSupervisor) -> Coroutine[Any, Any, None]:
            links = SelectorLinks(
                rank=0,
                plans=hubs["plans"].hub,
                trajectories=streams["trajectories"].receiver(),
                cancels=hubs["cancels"].hub,
                groups=streams["groups"].sender(),
                steps=streams["steps"].receiver(),
                supervisor=supervisor,
            )
            return selector.run(links, config, pool, self._run_id)

        def learn(supervisor: _LocalSupervisor) -> Coroutine[Any, Any, None]:
            links = LearnerLinks(
                rank=0,
                groups=streams["groups"].receiver(),
                steps=streams["steps"].sender(),
                policy=hubs["policy"].hub,
                chunks=streams["chunks"].receiver(),
                supervisor=supervisor,
            )
            return learner.run(links, config, trainer)

        def allocate(supervisor: _LocalSupervisor) -> Coroutine[Any, Any, None]:
            links = AllocatorLinks(
                rank=0,
                plans=hubs["plans"].dealer(supervisor.name),
                rollouts=hubs["rollouts"].hub,
                policy=hubs["policy"].dealer(supervisor.name),
                supervisor=supervisor,
            )
            return allocator.run(links, config, prompts)

        self._add("selector", 0, select)
        self._add("learner", 0, learn)
        self._add("allocator", 0, allocate)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for role in self._roles.values():
                    role.start(self._tasks)
        finally:
            for role in self._roles.values():
                role.supervisor.trace.close()
            if self._trace_file is not None:
                self._trace_file.close()

    async def lose(self, name: str) -> None:
        """A role dies on the spot, and starts anew over the same links: what was on its way to it may still arrive.

        It ends as a cancelled task does, so unlike a killed process it closes its files.
        """
        role = self._roles[name]
        await role.end()
        before = role.supervisor
        before.trace.close()
        for supervisor in self._supervisors:
            if supervisor is not before:
                loss = RoleLost(role=before.role, rank=before.rank, incarnation=before.incarnation)
                supervisor.losses.put_nowait(loss)
        role.supervisor = _LocalSupervisor(self, before.role, before.rank, before.incarnation + 1)
        role.supervisor.stop_reason = before.stop_reason
        if before.stopping.is_set():
            role.supervisor.stopping.set()
        role.start(self._tasks)

    def stop(self, reason: str) -> None:
        """Ask every role to drain and end: `done`, `interrupted` or `fault`."""
        for supervisor in self._supervisors:
            supervisor.stop_reason = supervisor.stop_reason or reason
            supervisor.stopping.set()
        self._begun.set()

    @property
    def gauges(self) -> dict[str, float]:
        """The current gauges of all roles."""
        return {name: value for supervisor in self._supervisors for name, value in supervisor.gauges.items()}

    @property
    def states(self) -> dict[str, str]:
        """What each role is doing, in a word or two."""
        return {supervisor.name: supervisor.state for supervisor in self._supervisors}

    def explain(self) -> Explanation:
        """Who waits for whom now. Ages are counted between calls."""
        now_s = clock.now_s()
        return explain({s.name: s.ages.look(s.look().pending, now_s) for s in self._supervisors})

    async def set_knobs(self, changes: Mapping[str, KnobChange]) -> dict[str, str]:
        """Change settings of the live run (`config.live.change` has checked them); return who refused, and why."""
        self._num_set += 1
        at_s = clock.now_s() - self._began_s
        order = SetKnobs(number=self._num_set, changes=dict(changes), at_s=at_s)
        answers = {s.name: await s.knobs(order) for s in self._supervisors if s.knobs is not None}
        return {name: refused for name, refused in answers.items() if refused}

    async def wait_begun(self) -> None:
        """The READY barrier."""
        self._num_ready += 1
        if self._num_ready == len(self._roles) and not self._begun.is_set():
            self._begun.set()
            self._report(Begin())
        await self._begun.wait()

    def trace_of(self, name: str, start: int) -> RoleTrace:
        """For a start of a role."""
        return trace_of(self._trace_file, name, start)

    def take(self, message: Message) -> None:
        """A role reports something."""
        self._report(message)
        if isinstance(message, RunComplete):
            self.stop("done")

    @property
    def _supervisors(self) -> list[_LocalSupervisor]:
        return [role.supervisor for role in self._roles.values()]

    def _add(self, role: Role, rank: int, make: Callable[[_LocalSupervisor], Coroutine[Any, Any, None]]) -> None:
        supervisor = _LocalSupervisor(self, role, rank)
        self._roles[supervisor.name] = _LocalRole(supervisor, make)

    def _stream(self, name: LinkName, hwm: int) -> MemoryStream[Any]:
        if not self._encode:
            return MemoryStream(hwm=hwm)
        return MemoryStream(hwm=hwm, codec=Codec(LINKS[name].forward, max_bytes=self._limits[name][0]))

    def _hub(self, name: LinkName) -> MemoryExchange[Any, Any]:
        if not self._encode:
            return MemoryExchange(hwm=CONTROL_HWM)
        spec = LINKS[name]
        to_binder, from_binder = self._limits[name]
        return MemoryExchange(
            hwm=CONTROL_HWM,
            send=Codec(spec.backward, max_bytes=from_binder),
            receive=Codec(spec.forward, max_bytes=to_binder),
        )


class _LocalRole:
    """A role and its present start."""

    def __init__(
        self, supervisor: _LocalSupervisor, make: Callable[[_LocalSupervisor], Coroutine[Any, Any, None]]
    ) -> None:
        """`make`: the role, with its ends of the links."""
        self.supervisor = supervisor
        self._make = make
        self._task: asyncio.Task[None] | None = None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        context = copy_context()
        context.run(ROLE.set, self.supervisor.role)
        context.run(record_as, self.supervisor.trace)
        self._task = tasks.create_task(self._make(self.supervisor), name=self.supervisor.name, context=context)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class _LocalSupervisor:
    """Implements `runtime.links.Supervisor` for one start of a role."""

    def __init__(self, run: LocalRun, role: Role, rank: int, incarnation: int = 0) -> None:
        self.stopping = asyncio.Event()
        self.stop_reason = ""
        self.trace = run.trace_of(f"{role}-{rank}", incarnation)
        self._state = ""
        self.state = "starting"
        self.gauges: dict[str, float] = {}
        self.incarnation = incarnation
        self.resumed = False
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.look: Look = nothing
        self.knobs: Callable[[SetKnobs], Awaitable[str]] | None = None
        self.ages = Ages()
        self.name = f"{role}-{rank}"
        self.role: Role = role
        self.rank = rank
        self._run = run

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, text: str) -> None:
        self._state = text
        self.trace.state(text)

    async def ready(self) -> None:
        self.state = "ready"
        await self._run.wait_begun()

    async def send(self, message: Message) -> None:
        self._run.take(message)

    async def finish(self, summary: dict[str, float]) -> None:
        self.state = "done"
        self._run.take(Finished(role=self.role, rank=self.rank, summary=summary))
