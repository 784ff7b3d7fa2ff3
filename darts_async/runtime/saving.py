"""When the learner writes which checkpoint: at the schedule's versions, at evaluated ones, to be restarted from, last.

Invariants: what a checkpoint does not cover stays in the spool; the one to be restarted from is replaced by a complete
one or by a regular one of a later version, never before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.config import Config
from darts_async.config.paths import RunPaths
from darts_async.messages import PolicyScored
from darts_async.owned_files import remove_folder
from darts_async.runtime.checkpoints import Checkpoints
from darts_async.runtime.spool import Spool

__all__ = ["Saves", "Saving"]

_log = logging.getLogger(__name__)


class Saves(Protocol):
    """What a trainer offers here; both are complete or not at all."""

    def save_checkpoint(self, folder: Path) -> None:
        """Write what `checkpoint.optimiser` asks for."""

    def save_recovery(self, folder: Path) -> None:
        """Write what can be gone on from."""


class Saving:
    """One learner's checkpoints. `trainer` is set once there is one."""

    def __init__(
        self, config: Config, schedule: EvalSchedule, spool: Spool, on_torch: Callable[..., Awaitable[Any]]
    ) -> None:
        """`on_torch(function, *arguments)` runs a function on the torch thread."""
        paths = RunPaths.of(config)
        self.trainer: Saves | None = None
        self.ended = False
        """Training is over: the next checkpoint is the last."""
        self._settings = config.checkpoint
        self._schedule = schedule
        self._keeps_best = schedule.every_steps > 0 and config.checkpoint.keep_best
        self._spool = spool
        self._on_torch = on_torch
        self._checkpoints = Checkpoints(paths.checkpoints, config.checkpoint.keep)
        self._recovery = paths.recovery
        self._saved = 0
        self._scored = 0
        """The latest version whose held-out score is here."""
        self._score_news = asyncio.Event()

    def follow(self, config: Config) -> None:
        """Other intervals, from the next step on; what is kept stays as it is."""
        self._settings = config.checkpoint

    async def restore(self) -> None:
        """Take up the folder that an earlier start of the learner left."""
        versions = await self._checkpoints.restore(self._is_periodic, self._awaits_score)
        self._saved = max(versions, default=0)

    async def after_step(self, version: int) -> None:
        """A step is over, and training is not: write what is due."""
        if self._is_periodic(version) or self._awaits_score(version):
            await self._write(version)
        every = self._settings.recovery_steps
        if every and version % every == 0 and not (self._settings.optimiser and self._is_periodic(version)):
            assert self.trainer is not None
            folder = self._recovery / f"step_{version}"
            await self._on_torch(self.trainer.save_recovery, folder)
            _log.info("%s: from here on after a restart", folder)
            await self._covered(version, keep=folder)

    async def last(self, version: int) -> None:
        """Training is over: this version has a checkpoint, whether or not one was due."""
        if version > self._saved:
            await self._write(version, last=True)
        elif version:
            await self._checkpoints.written(version, last=True)

    async def finished(self) -> None:
        """The run is complete: nothing is gone on from."""
        await asyncio.to_thread(remove_folder, self._recovery)
        await asyncio.to_thread(self._spool.drop_from, 0)

    async def _write(self, version: int, *, last: bool = False) -> None:
        assert self.trainer is not None
        folder = self._checkpoints.path_of(version)
        await self._on_torch(self.trainer.save_checkpoint, folder)
        self._saved = version
        _log.info("checkpoint %s", folder)
        await self._checkpoints.written(
            version, periodic=self._is_periodic(version), awaits_score=self._awaits_score(version), last=last
        )
        if self._settings.optimiser and (last or self._is_periodic(version)):
            await self._covered(version, keep=None)

    async def _covered(self, version: int, keep: Path | None) -> None:
        """This version can be gone on from."""
        await asyncio.to_thread(self._spool.prune, version)
        for path in list(self._recovery.iterdir()) if self._recovery.is_dir() else ():
            if path != keep:
                await asyncio.to_thread(remove_folder, path)

    def _is_periodic(self, version: int) -> bool:
        every = self._settings.every_steps
        return every > 0 and version % every == 0

    def _awaits_score(self, version: int) -> bool:
        """Whether the version is evaluated and may turn out to be the best: those of the schedule, and the last."""
        return self._keeps_best and (self._schedule.is_due(version) or self.ended)

    # --- the best one -------------------------------------------------------------------------------------------------

    async def take_score(self, message: PolicyScored) -> None:
        """A version's held-out score is here."""
        self._scored = max(self._scored, message.version)
        if self._keeps_best:
            await self._checkpoints.scored(message.version, message.reward, message.response_length)
        self._score_news.set()

    async def last_score(self, version: int, timeout_s: float) -> None:
        """At the end of a complete run the last version's score counts too; it is on its way here. 0: do not wait."""
        if self._keeps_best and timeout_s:
            try:
                async with asyncio.timeout(timeout_s):
                    while self._scored < version:
                        self._score_news.clear()
                        await self._score_news.wait()
            except TimeoutError:
                _log.warning("no held-out score of version %d: the last checkpoint is not ranked", version)
        await self._checkpoints.ended()
