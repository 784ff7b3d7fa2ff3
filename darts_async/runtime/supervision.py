"""A role's side of the control link: READY, heartbeats with progress, reports, and the order to stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from darts_async.messages import (
    SCHEMA_VERSION,
    Fault,
    Finished,
    Heartbeat,
    KnobsTaken,
    Message,
    Ready,
    Role,
    RoleLost,
    SetKnobs,
    ShowStacks,
    Stop,
    Warn,
)
from darts_async.runtime.stacks import task_stacks
from darts_async.runtime.waiting import Ages, Look, nothing
from darts_async.tracing import current

if TYPE_CHECKING:
    from darts_async.messages import FromSupervisor, ToSupervisor
    from darts_async.transport.links import Dealer

_log = logging.getLogger(__name__)
_LAG_SAMPLE_S = 0.05
_LAG_WINDOW = 200


class SupervisorClient:
    """Implements `runtime.links.Supervisor` over a dealer. `run()` must be running while the actor works."""

    def __init__(
        self,
        link: Dealer[ToSupervisor, FromSupervisor],
        role: Role,
        rank: int,
        pid: int,
        heartbeat_s: float,
        *,
        incarnation: int = 0,
        resumed: bool = False,
        link_gauges: Callable[[], dict[str, float]] = dict,
    ) -> None:
        """`link_gauges`: looked at with each heartbeat."""
        self._trace = current()
        self.incarnation = incarnation
        self.resumed = resumed
        self.losses: asyncio.Queue[RoleLost] = asyncio.Queue()
        self._lost: dict[tuple[Role, int], int] = {}
        """The last start of another role that is known to be over."""
        self.stopping = asyncio.Event()
        self.stop_reason = ""
        self._state = ""
        self.state = "starting"
        self.gauges: dict[str, float] = {}
        self._link_gauges = link_gauges
        self.look: Look = nothing
        self._knobs: Callable[[SetKnobs], Awaitable[str]] | None = None
        self._knobs_set = asyncio.Event()
        self._orders: asyncio.Queue[SetKnobs] = asyncio.Queue()  # few: one at a time, each is waited for
        self._ages = Ages()
        self._link = link
        self._role = role
        self._rank = rank
        self._pid = pid
        self._heartbeat_s = heartbeat_s
        self._begun = asyncio.Event()
        self._lags: deque[float] = deque(maxlen=_LAG_WINDOW)

    async def run(self) -> None:
        """Listen and send heartbeats until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._beat())
            tasks.create_task(self._measure_lag())
            tasks.create_task(self._take_knobs())

    @property
    def state(self) -> str:
        """See `runtime.links.Supervisor`."""
        return self._state

    @state.setter
    def state(self, text: str) -> None:
        self._state = text
        self._trace.state(text)

    @property
    def knobs(self) -> Callable[[SetKnobs], Awaitable[str]] | None:
        """See `runtime.links.Supervisor`."""
        return self._knobs

    @knobs.setter
    def knobs(self, take: Callable[[SetKnobs], Awaitable[str]] | None) -> None:
        self._knobs = take
        self._knobs_set.set()

    async def ready(self) -> None:
        """Say READY; return when all roles are ready, or when the run is stopped before that."""
        self.state = "ready"
        await self._link.send(Ready(role=self._role, rank=self._rank, pid=self._pid, schema_version=SCHEMA_VERSION))
        await self._begun.wait()

    async def send(self, message: Message) -> None:
        """Report something to the supervisor."""
        await self._link.send(message)  # type: ignore[arg-type] # the codec refuses what the union lacks

    async def finish(self, summary: dict[str, float]) -> None:
        """Send one last heartbeat and the role's part of the summary."""
        self.state = "done"
        await self._link.send(self._heartbeat())
        await self._link.send(Finished(role=self._role, rank=self._rank, summary=summary))

    async def fault(self, error: str, *, curable: bool) -> None:
        """Report that the role cannot go on, and whether another start of it could."""
        await self._link.send(Fault(role=self._role, rank=self._rank, error=error[:8000], curable=curable))

    async def _listen(self) -> None:
        while True:
            message = await self._link.recv()
            if isinstance(message, RoleLost):
                self._lose(message)
                continue
            if isinstance(message, SetKnobs):
                self._orders.put_nowait(message)
                continue
            if isinstance(message, ShowStacks):
                _log.warning("%s\nwhere the tasks stand:\n%s", message.reason, task_stacks())
                continue
            if isinstance(message, Stop):
                self.stop_reason = message.reason
                self.stopping.set()
            self._begun.set()

    async def _take_knobs(self) -> None:
        await self._knobs_set.wait()
        newest = -1
        while True:
            order = await self._orders.get()
            if order.number <= newest:
                continue  # told before; since then it may have been followed by another
            newest = order.number
            assert self._knobs is not None
            refused = await self._knobs(order)
            shown = ", ".join(f"{key} = {change.new!r}" for key, change in order.changes.items())
            _log.info("%s: %s", shown, refused or "taken")
            await self._link.send(
                KnobsTaken(role=self._role, rank=self._rank, number=order.number, refused=refused[:8000])
            )

    def _lose(self, loss: RoleLost) -> None:
        """Pass a loss on, once: a newcomer is told again of what it may have missed."""
        key = (loss.role, loss.rank)
        if loss.incarnation > self._lost.get(key, -1):
            self._lost[key] = loss.incarnation
            self.losses.put_nowait(loss)  # few: restarts are bounded

    async def _beat(self) -> None:
        while True:
            await self._link.send(self._heartbeat())
            if warning := self._trace.take_warning():
                await self._link.send(Warn(role=self._role, rank=self._rank, text=warning))
            await asyncio.sleep(self._heartbeat_s)

    def _heartbeat(self) -> Heartbeat:
        if self._lags:
            ordered = sorted(self._lags)
            self.gauges["loop_lag_p99_ms"] = 1e3 * ordered[int(0.99 * (len(ordered) - 1))]
        self.gauges |= self._link_gauges()
        outlook = self.look()
        return Heartbeat(
            role=self._role,
            rank=self._rank,
            state=self.state[:256],
            gauges=dict(self.gauges),
            progress=outlook.progress,
            waits=self._ages.look(outlook.pending, time.monotonic()),
        )

    async def _measure_lag(self) -> None:
        """How late the loop wakes a timer: what every other task had to wait."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SAMPLE_S
            await asyncio.sleep(_LAG_SAMPLE_S)
            self._lags.append(max(0.0, loop.time() - due))
