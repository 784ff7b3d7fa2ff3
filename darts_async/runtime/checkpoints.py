"""The folder of a run's checkpoints: which of them stay (`algorithms.retention` decides), and which is the best.

Writes no weights itself. Invariant: `best.json` is complete or absent, and the checkpoint it names exists: it is
replaced before the one that it named is deleted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from darts_async.algorithms.retention import Retention, Scored
from darts_async.durable import replace_file

_STEP: Final = re.compile(r"^step_(\d+)$")
_log = logging.getLogger(__name__)


class _Best(msgspec.Struct):
    step: int
    reward: float
    response_length: float


class Checkpoints:
    """Retention of `step_<N>` in one folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._retention = Retention(keep)
        self._named: Scored | None = None
        self._tidying = asyncio.Lock()

    def path_of(self, version: int) -> Path:
        """Where a version's checkpoint is (or will be)."""
        return self._folder / f"step_{version}"

    @property
    def best_file(self) -> Path:
        """Names the best checkpoint: `{"step": ..., "reward": ..., "response_length": ...}`."""
        return self._folder / "best.json"

    async def restore(self, is_periodic: Callable[[int], bool], awaits_score: Callable[[int], bool]) -> list[int]:
        """Take up what an earlier start of the learner left here; return its versions."""
        names = await asyncio.to_thread(lambda: [path.name for path in self._folder.glob("step_*")])
        versions = sorted(int(match[1]) for match in map(_STEP.match, names) if match)
        for version in versions:
            self._retention.written(version, periodic=is_periodic(version), awaits_score=awaits_score(version))
        if versions:
            # Until the next one is written it is what a run that ends now has.
            self._retention.written(versions[-1], last=True)
        best = await asyncio.to_thread(self._read_best)
        if best is not None and best.version in versions:
            self._retention.scored(best)
            self._named = best
        await self._tidy()
        return versions

    async def written(
        self, version: int, *, periodic: bool = False, awaits_score: bool = False, last: bool = False
    ) -> None:
        """A checkpoint is complete, and why it was written; delete the ones that are no longer wanted.

        May be told again with a further reason.
        """
        self._retention.written(version, periodic=periodic, awaits_score=awaits_score, last=last)
        await self._tidy()

    async def scored(self, version: int, reward: float, response_length: float) -> None:
        """A version's held-out score is known."""
        self._retention.scored(Scored(version, reward, response_length))
        await self._tidy()

    async def ended(self) -> None:
        """No further scores will come."""
        self._retention.ended()
        await self._tidy()

    async def _tidy(self) -> None:
        async with self._tidying:
            best = self._retention.best
            if best is not None and best != self._named:
                await asyncio.to_thread(self._name, best)
                self._named = best
                _log.info("best checkpoint so far: %s, reward %.4g", self.path_of(best.version), best.reward)
            for version in self._retention.to_delete():
                await asyncio.to_thread(shutil.rmtree, self.path_of(version), ignore_errors=True)

    def _read_best(self) -> Scored | None:
        try:
            found = msgspec.json.decode(self.best_file.read_bytes(), type=_Best)
        except (OSError, msgspec.MsgspecError):
            return None
        return Scored(found.step, found.reward, found.response_length)

    def _name(self, best: Scored) -> None:
        text = json.dumps({"step": best.version, "reward": best.reward, "response_length": best.response_length})
        replace_file(self.best_file, f"{text}\n".encode())
