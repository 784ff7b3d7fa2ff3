"""Keeps the roles of a run alive: sees each one's end, starts it anew where that can help, says so, or gives up.

What counts as curable, how often and after which wait is `algorithms.restarts`' to say. Invariants: nothing of a start
(an engine's child, a learner's worker) is alive when the next one begins; the others hear that a start is over before
the next one begins; a newcomer is told, before it begins, of every loss that it must know and has missed; once the
run is being wound down nothing is started any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from darts_async.algorithms.restarts import RestartPolicy, SignsOfLife
from darts_async.config import Config
from darts_async.launcher import process_group
from darts_async.launcher.roles import RoleProcess, Starter
from darts_async.messages import Fault, RoleLost

__all__ = ["RoleKeeper", "Told"]

_log = logging.getLogger(__name__)
_LOOK_S: Final = 0.5
"""How often the roles' signs of life are looked at: a clock, not a wait."""
_LAST_WORD_S: Final = 0.5
"""For what a role said before it ended to be read."""
_FAULTED_S: Final = 5.0
"""For a role that has reported a fault to end by itself (its engine may hang when it is closed)."""
_DEATH_NEWS_S: Final = 0.5
"""A fault may be the echo of another role's death, whose news is slower: that death is the reason then. A killed
process is noticed within milliseconds, on a busy machine within tenths of a second."""
_DEATH_S: Final = 30.0
"""For processes that were killed to be gone; only a driver that hangs takes long."""


@dataclass(frozen=True, slots=True)
class Told:
    """Whom the keeper tells what."""

    lost: Callable[[RoleLost], Awaitable[None]]
    """To be passed on to every other role, at once."""
    restarting: Callable[[str], None]
    """Who is about to be started anew, and why, in a sentence."""
    failed: Callable[[str], None]
    """The run cannot go on."""


class RoleKeeper:
    """The roles of one run, by name. `keep` must be running while they work."""

    def __init__(self, config: Config, starter: Starter, told: Told) -> None:
        self._launch = config.launch
        self._starter = starter
        self._told = told
        self._policy = RestartPolicy(config.launch.max_restarts, config.launch.restart_backoff_s)
        self._signs = SignsOfLife(config.launch.silence_s, _LOOK_S)
        self._winding_down = asyncio.Event()
        self._losses: list[RoleLost] = []
        """In order; at most one restart's worth for each restart."""
        self.roles: dict[str, RoleProcess] = {}

    @property
    def restarts(self) -> dict[str, int]:
        """How often each role was started anew, by name; those that never were have no entry."""
        return self._policy.counts

    @property
    def present(self) -> list[RoleProcess]:
        """Roles whose present start is not over."""
        return [role for role in self.roles.values() if not role.gone]

    async def start(self) -> None:
        """Start every role for the first time."""
        self.roles = {role.name: role for role in await self._starter.start_all()}

    async def keep(self) -> None:
        """Until every role has ended for good."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            keeping = [tasks.create_task(self._keep(role)) for role in self.roles.values()]
            await asyncio.gather(*keeping)
            watching.cancel()

    def heard(self, role: RoleProcess) -> None:
        """A message of a role is here."""
        self._signs.heard(role.name, time.monotonic())

    def faulted(self, role: RoleProcess, fault: Fault) -> None:
        """A role has reported that it cannot go on; it is about to end."""
        role.took(fault)

    @property
    def num_losses(self) -> int:
        """Losses so far, of all roles."""
        return len(self._losses)

    async def lost_elsewhere(self, loss: RoleLost) -> None:
        """A role that was not started here is gone, and is not started anew."""
        self._losses.append(loss)
        await self._told.lost(loss)

    def since(self, num_losses: int) -> list[RoleLost]:
        """Return the losses behind the first so many."""
        return self._losses[num_losses:]

    def missed_by(self, newcomer: RoleProcess) -> list[RoleLost]:
        """Return the losses that a start of a role has to be told of.

        Those since its predecessor's, when nobody listened under its name; of the generators the last one each, because
        plans for a start of one that was lost long ago may have waited for the newcomer in others' queues.
        """
        own = max(
            (n for n, loss in enumerate(self._losses) if (loss.role, loss.rank) == (newcomer.role, newcomer.rank)),
            default=-1,
        )
        missed: dict[tuple[str, int], RoleLost] = {}
        for number, loss in enumerate(self._losses):
            if (number > own or loss.role == "generator") and (loss.role, loss.rank) != (newcomer.role, newcomer.rank):
                missed[loss.role, loss.rank] = loss
        return list(missed.values()) if newcomer.incarnation else []

    async def wind_down(self) -> None:
        """Start nothing any more. A role that is not back from a restart has nothing to drain: it is ended."""
        self._winding_down.set()
        for role in self.present:
            if role.incarnation and not role.ready:
                role.kill("was starting again")

    def kill_all(self) -> None:
        """SIGKILL to everything."""
        self._winding_down.set()
        for role in self.roles.values():
            role.kill()

    async def all_exited(self) -> None:
        """Return when no role's process is left."""
        await asyncio.gather(*(role.process.wait() for role in self.roles.values()))

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _keep(self, role: RoleProcess) -> None:
        while True:
            await self._end_of(role)
            if role.finished:
                return
            role.ready = False
            reason = f"{role.name}{role.loss.text}"
            delay_s = None
            if role.loss.curable and not self._winding_down.is_set():
                delay_s = self._policy.restart(role.name)
            loss = RoleLost(role=role.role, rank=role.rank, incarnation=role.incarnation)
            self._losses.append(loss)
            await self._told.lost(loss)
            if delay_s is None:
                if role.fault is not None:
                    await asyncio.sleep(_DEATH_NEWS_S)
                self._told.failed(f"{reason}{self._used_up(role)}; its log: {role.log}")
                return
            count = f"restart {role.incarnation + 1} of {self._policy.max_restarts}"
            role.state = f"{role.exit_text}, {count} in {delay_s:g} s"
            self._told.restarting(f"{reason}: {count} in {delay_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._winding_down.wait()
            if self._winding_down.is_set():
                return
            role.begins_anew(await self._starter.start(role.role, role.rank, role.incarnation + 1))

    async def _end_of(self, role: RoleProcess) -> None:
        """Wait until a role and all that it has started are gone."""
        await role.process.wait()
        role.gone, role.state = True, role.exit_text
        self._signs.forget(role.name)
        if left := await process_group.end(role.process.pid, _DEATH_S):
            raise RuntimeError(f"{role.name} left processes that cannot be killed: {left}")
        if role.process.returncode is not None and role.process.returncode >= 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD_S):
                    await role.said_last.wait()

    def _used_up(self, role: RoleProcess) -> str:
        if not role.loss.curable or not role.incarnation or self._winding_down.is_set():
            return ""
        return f"; launch.max_restarts = {self._policy.max_restarts} are used up"

    async def _watch(self) -> None:
        """Kill whoever is silent, does not end after a fault, or does not come back from a restart in time."""
        faulted: dict[tuple[str, int], float] = {}
        while not self._winding_down.is_set():
            now_s = time.monotonic()
            for name in self._signs.silent(now_s):
                role = self.roles[name]
                if not role.killed_for:
                    _log.warning("%s is silent and is killed", name)
                    role.kill(f"gave no sign of life for launch.silence_s = {self._launch.silence_s:g} s")
            for role in self.present:
                since_s = faulted.setdefault((role.name, role.incarnation), now_s) if role.fault else now_s
                if now_s - since_s > _FAULTED_S:
                    role.kill("did not end after a fault")
                if role.incarnation and not role.ready and now_s - role.started_s > self._launch.ready_timeout_s:
                    role.kill(f"was not ready within launch.ready_timeout_s = {self._launch.ready_timeout_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._winding_down.wait()
