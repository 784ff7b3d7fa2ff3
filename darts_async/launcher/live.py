"""The launcher's side of a live run's questions and orders: `status`, `set` and the stall watchdog behind one object.

The supervisor hands on what it hears; this answers whoever asks on the outside link. Whatever goes wrong here is
said and never ends the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from darts_async.algorithms.staleness import eta_of
from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.errors import LinkBroken
from darts_async.launcher.accounts import Accounts
from darts_async.launcher.knob_orders import KnobOrders
from darts_async.launcher.roles import RoleProcess
from darts_async.launcher.view.history import tokens_by_state
from darts_async.launcher.watchdog import Watchdog
from darts_async.messages import Heartbeat, KnobsTaken, SetKnobs, ShowStacks
from darts_async.runtime.outside_link import AskSet, EvalLine, OutsideHub, SetAnswer, StatusAnswer
from darts_async.runtime.record import RunRecord

__all__ = ["LiveRun"]

_WARNINGS: Final = 10
_EVALS: Final = 8
Send: TypeAlias = Callable[[RoleProcess, SetKnobs | ShowStacks], Awaitable[None]]


class LiveRun:
    """Of one run. `serve` must be running; `close` when it is over."""

    def __init__(
        self,
        config: Config,
        paths: RunPaths,
        record: RunRecord,
        *,
        roles: Callable[[], Mapping[str, RoleProcess]],
        send: Send,
        warn: Callable[[str], None],
        earlier_s: float = 0.0,
    ) -> None:
        """`send` to a role that cannot be reached does nothing; `warn` tells a person. `earlier_s`: how long earlier
        starts of the run lasted."""
        self._paths = paths
        self._record = record
        self._roles = roles
        self._warn = warn
        self._accounts = Accounts()
        self._began_s = time.monotonic()
        self._earlier_s = earlier_s
        self._state = "starting"
        self._hub: OutsideHub | None = None
        self.knobs = KnobOrders(config, paths.live_config, roles, send)
        self.watchdog = Watchdog(
            config.launch.stall_s,
            paths.logs / "stalls.log",
            explain=lambda: self._accounts.explain(self._roles().values(), time.monotonic()),
            roles=lambda: self._roles().values(),
            send=send,
            warn=warn,
        )

    # --- what the supervisor hands on -------------------------------------------------------------------------------

    def heard(self, role: RoleProcess, message: Heartbeat) -> None:
        """A heartbeat; the role's own state and gauges are set already."""
        self._accounts.heard(role, message, time.monotonic())
        self.watchdog.heard(role, message.progress)

    def taken(self, role: RoleProcess, message: KnobsTaken) -> None:
        """A role's answer to an order."""
        self.knobs.taken(role, message)

    def begun(self) -> None:
        """All roles work."""
        self._state = "running"
        self.watchdog.begin()

    def ends(self) -> None:
        """The run winds down."""
        self._state = "ending"
        self.watchdog.end()

    # --- serving ----------------------------------------------------------------------------------------------------

    async def serve(self, folder: Path) -> None:
        """Watch, and answer on a socket in a private folder. Until cancelled."""
        try:
            self._hub = OutsideHub(folder, self._paths.control_file)
        except (LinkBroken, OSError) as error:
            self._warn(f"`darts-async status` and `set` cannot reach this run: {error}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watchdog.watch())
            if self._hub is not None:
                tasks.create_task(self._answer(self._hub))

    async def close(self) -> None:
        """Answer nobody any more."""
        if self._hub is not None:
            with contextlib.suppress(OSError):
                await self._hub.close()

    async def _answer(self, hub: OutsideHub) -> None:
        while True:
            peer, request = await hub.link.recv()
            await hub.answer(peer, await self.set(request) if isinstance(request, AskSet) else self.status())

    async def set(self, request: AskSet) -> SetAnswer:
        """Change settings."""
        if self._state != "running":
            return SetAnswer(refused=f"the run is {self._state}: settings can be changed while it trains")
        try:
            answer = await self.knobs.set(list(request.assignments.items()))
        except OSError as error:
            return SetAnswer(refused=f"changed, but not written down: {error}")
        if answer.changed:
            self.watchdog.set_stall_s(self.knobs.config.launch.stall_s)
            shown = ", ".join(f"{key} {change.old} -> {change.new}" for key, change in answer.changed.items())
            self._warn(f"set while the run goes on: {shown}")
        return answer

    def status(self) -> StatusAnswer:
        """How the run is."""
        now_s, roles = time.monotonic(), self._roles().values()
        found = self._accounts.explain(roles, now_s)
        return StatusAnswer(
            run=self.knobs.config.run.name,
            state=self._state,  # type: ignore[arg-type] # one of the three
            wall_s=now_s - self._began_s,
            step=self._record.policy_version,
            steps=self.knobs.config.run.steps,
            roles=self._accounts.role_lines(roles, now_s),
            queues=self._accounts.queue_lines(roles, self.knobs.config, now_s),
            waits=found.sentences[:4096],
            verdict=found.verdict[:8192],
            still_s=self.watchdog.still_s,
            stalls=self.watchdog.num_stalls,
            stalls_log=str(self.watchdog.log)[:8192],
            warnings=tuple(text[:8192] for text in self._record.warnings[-_WARNINGS:]),
            changed=self.knobs.changed,
            about=_about(self.knobs.config),
            earlier_s=self._earlier_s,
            max_wall_s=self.knobs.config.run.max_wall_s,
            max_trained_tokens=self.knobs.config.run.max_trained_tokens,
            tokens=tokens_by_state(next((role.gauges for role in roles if role.role == "selector"), {})),
            evals=_evals(self._record),
        )


def _about(config: Config) -> str:
    """What tells one run from another at a glance."""
    pipeline, rule = config.pipeline, config.selection.rule
    return f"{rule}, {pipeline.mode}, staleness at most {eta_of(config)}"


def _evals(record: RunRecord) -> tuple[EvalLine, ...]:
    """The first one, and the last ones."""
    before, after = (record.evals.get(label) for label in ("before", "after"))
    found = [result for result in (before, *record.evals_during, after) if result is not None]
    finite = [one for one in found if math.isfinite(one.reward) and math.isfinite(one.response_length)]
    return tuple(
        EvalLine(
            label=one.label,
            version=one.policy_version,
            reward=one.reward,
            response_length=one.response_length,
        )
        for one in [*finite[:1], *finite[1:][-(_EVALS - 1) :]]
    )
