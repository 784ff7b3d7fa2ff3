"""All roles in one process and one event loop, over in-memory links: the same actors without sockets.

For tests, benchmarks and simulation. What the launcher does between processes happens here between tasks: READY
barrier, stop, reports. An engine and a trainer can be handed in, so that many runs share one engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from actors import allocator, generator, learner, selector
from darts_async.algorithms.wait_graph import Explanation, explain
from darts_async.config import Config
from darts_async.messages import Begin, Finished, KnobChange, Message, Role, RoleLost, RunComplete, SetKnobs
from darts_async.runtime.link_limits import link_limits
from darts_async.runtime.links import AllocatorLinks, GeneratorLinks, LearnerLinks, SelectorLinks
from darts_async.runtime.topology import CONTROL_HWM, LINKS, LinkName
from darts_async.runtime.waiting import Ages, Look, nothing
from darts_async.transport.codec import Codec
from darts_async.transport.memory_links import MemoryExchange, MemoryStream

if TYPE_CHECKING:
    from darts_async.engines.base import RolloutEngine
    from darts_async.runtime.reward_pool import RewardPool

Report = Callable[[Message], None]


class LocalRun:
    """One run in this process. `stop` may be called at any time; reports go to the callback in order, `Begin` first."""

    def __init__(self, config: Config, report: Report) -> None:
        self._config = config
        self._report = report
        self._limits = link_limits(config)
        self._supervisors: list[_LocalSupervisor] = []
        self._num_ready = 0
        self._num_set = 0
        self._began_s = time.monotonic()
        self._begun = asyncio.Event()

    async def run(
        self,
        *,
        engines: list[RolloutEngine] | None = None,
        trainer: Any = None,
        pool: RewardPool | None = None,
    ) -> None:
        """Run until the allocator says the run is complete, or `stop`. Raises what a role raises.

        `engines` (one a replica), `trainer` and `pool` are used as they are; without them the roles make their own.
        """
        config = self._config
        hwm = {"trajectories": config.queues.trajectory_hwm, "groups": config.queues.ready_groups}
        streams = {n: self._stream(n, hwm.get(n, CONTROL_HWM)) for n, spec in LINKS.items() if spec.kind == "stream"}
        hubs = {n: self._hub(n) for n, spec in LINKS.items() if spec.kind == "hub" and n != "control"}
        roles = []
        for rank in range(config.generator.replicas):
            name = f"generator-{rank}"
            generator_links = GeneratorLinks(
                rank=rank,
                rollouts=hubs["rollouts"].dealer(name),
                trajectories=streams["trajectories"].sender(),
                cancels=hubs["cancels"].dealer(name),
                policy=hubs["policy"].dealer(name),
                chunks=streams["chunks"].sender(),
                supervisor=self._supervisor("generator", rank),
            )
            roles.append(generator.run(generator_links, config, engines[rank] if engines else None))
        selector_links = SelectorLinks(
            rank=0,
            plans=hubs["plans"].hub,
            trajectories=streams["trajectories"].receiver(),
            cancels=hubs["cancels"].hub,
            groups=streams["groups"].sender(),
            steps=streams["steps"].receiver(),
            supervisor=self._supervisor("selector", 0),
        )
        learner_links = LearnerLinks(
            rank=0,
            groups=streams["groups"].receiver(),
            steps=streams["steps"].sender(),
            policy=hubs["policy"].hub,
            chunks=streams["chunks"].receiver(),
            supervisor=self._supervisor("learner", 0),
        )
        allocator_links = AllocatorLinks(
            rank=0,
            plans=hubs["plans"].dealer("allocator-0"),
            rollouts=hubs["rollouts"].hub,
            policy=hubs["policy"].dealer("allocator-0"),
            supervisor=self._supervisor("allocator", 0),
        )
        selecting = selector.serve(selector_links, config, pool) if pool else selector.run(selector_links, config)
        roles.append(selecting)
        roles.append(learner.run(learner_links, config, trainer))
        roles.append(allocator.run(allocator_links, config))
        async with asyncio.TaskGroup() as tasks:
            for role in roles:
                tasks.create_task(role)

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
        now_s = time.monotonic()
        return explain({s.name: s.ages.look(s.look().pending, now_s) for s in self._supervisors})

    async def set_knobs(self, changes: Mapping[str, KnobChange]) -> dict[str, str]:
        """Change settings of the live run (`config.live.change` has checked them); return who refused, and why."""
        self._num_set += 1
        at_s = time.monotonic() - self._began_s
        order = SetKnobs(number=self._num_set, changes=dict(changes), at_s=at_s)
        answers = {s.name: await s.knobs(order) for s in self._supervisors if s.knobs is not None}
        return {name: refused for name, refused in answers.items() if refused}

    async def wait_begun(self) -> None:
        """The READY barrier."""
        self._num_ready += 1
        if self._num_ready == len(self._supervisors):
            self._begun.set()
            self._report(Begin())
        await self._begun.wait()

    def take(self, message: Message) -> None:
        """A role reports something."""
        self._report(message)
        if isinstance(message, RunComplete):
            self.stop("done")

    def _supervisor(self, role: Role, rank: int) -> _LocalSupervisor:
        self._supervisors.append(_LocalSupervisor(self, role, rank))
        return self._supervisors[-1]

    def _stream(self, name: LinkName, hwm: int) -> MemoryStream[Any]:
        return MemoryStream(hwm=hwm, codec=Codec(LINKS[name].forward, max_bytes=self._limits[name][0]))

    def _hub(self, name: LinkName) -> MemoryExchange[Any, Any]:
        spec = LINKS[name]
        to_binder, from_binder = self._limits[name]
        return MemoryExchange(
            hwm=CONTROL_HWM,
            send=Codec(spec.backward, max_bytes=from_binder),
            receive=Codec(spec.forward, max_bytes=to_binder),
        )


class _LocalSupervisor:
    """Implements `runtime.links.Supervisor` for one role."""

    def __init__(self, run: LocalRun, role: Role, rank: int) -> None:
        self.stopping = asyncio.Event()
        self.stop_reason = ""
        self.state = "starting"
        self.gauges: dict[str, float] = {}
        self.incarnation = 0
        self.resumed = False
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self.look: Look = nothing
        self.knobs: Callable[[SetKnobs], Awaitable[str]] | None = None
        self.ages = Ages()
        self.name = f"{role}-{rank}"
        self._run = run
        self._role = role
        self._rank = rank

    async def ready(self) -> None:
        self.state = "ready"
        await self._run.wait_begun()

    async def send(self, message: Message) -> None:
        self._run.take(message)

    async def finish(self, summary: dict[str, float]) -> None:
        self.state = "done"
        self._run.take(Finished(role=self._role, rank=self._rank, summary=summary))
