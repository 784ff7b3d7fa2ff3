"""The launcher's side of generators that join from elsewhere: who they are, whether they still are, what they fetch.

They take part like the launcher's own generators, under ranks beyond the configured ones, and are never started anew
from here. Invariants: a rank has at most one start at a time, and the next one has the next incarnation; everybody
hears of the loss of a start before a later one is let in; whatever a joining side does, the run goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from darts_async import __version__
from darts_async.algorithms.restarts import SignsOfLife
from darts_async.config import Config, to_toml
from darts_async.config.paths import RunPaths
from darts_async.engines.weight_store import WeightStore
from darts_async.launcher.roles import RoleProcess
from darts_async.messages import (
    SCHEMA_VERSION,
    Fault,
    Finished,
    Heartbeat,
    KnobsTaken,
    Ready,
    RoleLost,
    ToSupervisor,
    Warn,
)
from darts_async.owned_files import write_private
from darts_async.runtime.join_link import (
    MARK,
    PART_BYTES,
    AskJoin,
    AskWeights,
    FromLauncher,
    Joined,
    JoinHub,
    JoinRefused,
    Leave,
    Standing,
    StillThere,
    WeightsGone,
    WeightsPart,
)

__all__ = ["JoinedRole", "Joiners"]

_log = logging.getLogger(__name__)
_ITS_OWN: Final = (Ready, Heartbeat, KnobsTaken, Warn, Finished, Fault)
"""What a generator has to tell the launcher, always as the one that it is."""
_LOOK_S: Final = 0.5
"""How often signs of life are looked at: a clock, not a wait."""


class _Elsewhere:
    """A process that this machine cannot see."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._over = asyncio.Event()

    async def wait(self) -> int:
        await self._over.wait()
        return self.returncode or 0

    def ended(self) -> None:
        self.returncode = 0
        self._over.set()


@dataclass
class JoinedRole(RoleProcess):
    """One start of a generator that runs elsewhere."""

    is_here: ClassVar[bool] = False
    host: str = ""
    num_losses: int = 0
    """Losses of other roles before it joined: it knows nothing of them, and need not."""

    def kill(self, why: str = "") -> None:
        """It is for whoever started it to end it; they are told when they ask."""
        self.killed_for = self.killed_for or why


class Joiners:
    """Of one run. `serve` must be running while it lasts."""

    def __init__(
        self,
        config: Config,
        paths: RunPaths,
        hub: JoinHub,
        *,
        lost: Callable[[RoleLost], Awaitable[None]],
        changed: Callable[[str], None],
        num_losses: Callable[[], int],
    ) -> None:
        """`lost`: to be passed on to all other roles; `changed`: who came or left, in a sentence; `num_losses`: of
        roles of the run so far. Raises `OSError` when the mark cannot be written into the folder of the weights."""
        self._config = config
        self._toml = to_toml(config)
        self._paths = paths
        self._store = WeightStore(paths.weights, 0)
        self._hub = hub
        self._lost = lost
        self._changed = changed
        self._num_losses = num_losses
        self._signs = SignsOfLife(config.launch.silence_s, _LOOK_S)
        self._mark = secrets.token_hex(16)
        self._next: dict[int, int] = {}
        """The next incarnation of each rank that was ever given out."""
        self.state: Literal["starting", "running", "ending"] = "starting"
        self.roles: dict[str, JoinedRole] = {}
        """Those that take part now."""
        (paths.weights / MARK).unlink(missing_ok=True)  # of a start of the run that was cut off
        write_private(paths.weights / MARK, self._mark.encode())

    def takes(self, role: JoinedRole, message: ToSupervisor) -> bool:
        """A message of a role is here; False where it speaks for another one, or of what is not its to say."""
        if not isinstance(message, _ITS_OWN) or (message.role, message.rank) != (role.role, role.rank):
            _log.warning("%s on %s sent a %s that is not its own", role.name, role.host, type(message).__name__)
            return False
        self._heard(role)
        return True

    def _heard(self, role: JoinedRole) -> None:
        self._signs.heard(role.name, time.monotonic())

    async def serve(self) -> None:
        """Answer, and watch for silence, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._answer())
            tasks.create_task(self._watch())

    async def close(self) -> None:
        """Answer nobody any more."""
        await self._hub.close()
        with contextlib.suppress(OSError):
            (self._paths.weights / MARK).unlink()

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        while True:
            peer, request = await self._hub.link.recv()
            answer: FromLauncher
            match request:
                case AskJoin():
                    answer = self._let_in(request)
                case StillThere(rank=rank, incarnation=incarnation):
                    known = self._of(rank, incarnation)
                    if known is not None and not known.ready:
                        self._heard(known)  # it is loading: whoever started it speaks for it
                    answer = Standing(known=known is not None, state=self.state)
                case Leave(rank=rank, incarnation=incarnation, reason=reason):
                    if (role := self._of(rank, incarnation)) is not None:
                        await self._end(role, f"has left the run: {reason}")
                    answer = Standing(known=False, state=self.state)
                case AskWeights(version=version, offset=offset):
                    answer = await asyncio.to_thread(self._part, version, offset)
            await self._hub.answer(peer, answer)

    def _let_in(self, request: AskJoin) -> Joined | JoinRefused:
        if request.schema_version != SCHEMA_VERSION or request.software != __version__:
            theirs, ours = request.software, __version__
            return JoinRefused(reason=f"the run is one of darts-async {ours}, this is {theirs}: install the same")
        if self.state == "ending":
            return JoinRefused(reason="the run is ending")
        first = self._config.generator.replicas
        free = [r for r in range(first, first + self._config.launch.join) if f"generator-{r}" not in self.roles]
        if not free:
            return JoinRefused(reason=f"launch.join = {self._config.launch.join} generators have joined already")
        rank = request.rank if request.rank in free else free[0]
        incarnation = self._next.get(rank, 0)
        self._next[rank] = incarnation + 1
        role = JoinedRole(
            "generator",
            rank,
            Path(f"on {request.host}"),
            _Elsewhere(request.pid),
            incarnation=incarnation,
            host=request.host,
            num_losses=self._num_losses(),
        )
        role.state = f"starting on {request.host}"[:256]
        self.roles[role.name] = role
        self._signs.heard(role.name, time.monotonic())
        again = f" again (start {incarnation + 1})" if incarnation else ""
        self._changed(f"{role.name} joins{again} from {request.host}")
        return Joined(
            rank=rank,
            incarnation=incarnation,
            config=self._toml,
            weights_folder=str(self._paths.weights),
            weights_mark=self._mark,
        )

    def _of(self, rank: int, incarnation: int) -> JoinedRole | None:
        role = self.roles.get(f"generator-{rank}")
        return role if role is not None and role.incarnation == incarnation else None

    async def _end(self, role: JoinedRole, how: str) -> None:
        """It has no part in the run any more; everybody hears of it."""
        del self.roles[role.name]
        self._signs.forget(role.name)
        role.gone, role.ready = True, False
        assert isinstance(role.process, _Elsewhere)
        role.process.ended()
        if not role.finished:
            await self._lost(RoleLost(role="generator", rank=role.rank, incarnation=role.incarnation))
        self._changed(f"{role.name} {how}")

    async def _watch(self) -> None:
        while True:
            for name in self._signs.silent(time.monotonic()):
                if (role := self.roles.get(name)) is not None:
                    silence_s = self._config.launch.silence_s
                    await self._end(role, f"is lost: no sign of life for launch.silence_s = {silence_s:g} s")
            limit_s = self._config.launch.ready_timeout_s
            for role in list(self.roles.values()):
                if not role.ready and time.monotonic() - role.started_s > limit_s:
                    await self._end(role, f"was not ready within launch.ready_timeout_s = {limit_s:g} s")
            await asyncio.sleep(_LOOK_S)

    def _part(self, version: int, offset: int) -> WeightsPart | WeightsGone:
        try:
            with self._store.path_of(version).open("rb") as file:
                status = os.fstat(file.fileno())
                file.seek(offset)
                data = file.read(PART_BYTES)
        except (OSError, OverflowError):
            return WeightsGone(version=version)
        if not data:
            return WeightsGone(version=version)
        stamp = f"{status.st_ino}-{status.st_mtime_ns}"
        return WeightsPart(version=version, offset=offset, total=status.st_size, stamp=stamp, data=data)
