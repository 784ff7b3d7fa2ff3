"""Brings a trainer to the version that an earlier start of the learner had reached: checkpoint, then spool.

Invariant: it ends at exactly that version, or with a `RunFailed`; on the CPU with one thread the weights are, bit for
bit, the ones that version had, because the groups go through the trainer in the order and in the chunks of then. (Not
where log-probs of frozen policies were computed while tokens still streamed: those differ by rounding.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from darts_async.engines.restart_points import restart_points
from darts_async.errors import ProtocolError, RunFailed
from darts_async.messages import TrainGroup
from darts_async.runtime.spool import Spool

__all__ = ["MadeVersion", "Replays", "replay_steps"]

_log = logging.getLogger(__name__)


class MadeVersion(Protocol):
    """What a finished step is asked for here."""

    @property
    def version(self) -> int:
        """The version that the step made."""


class Replays(Protocol):
    """What a trainer offers here; all of it blocks, on its own thread."""

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint. Raises `ProtocolError`."""

    def accumulate(self, groups: Sequence[TrainGroup]) -> object:
        """Add the gradient of a chunk."""

    def apply_step(self) -> MadeVersion:
        """Make the next version."""


async def replay_steps(
    trainer: Replays,
    spool: Spool,
    folders: tuple[Path, ...],
    version: int,
    *,
    groups_per_step: int,
    on_torch: Callable[..., Awaitable[Any]],
    on_version: Callable[[int], Awaitable[None]],
) -> None:
    """Load the latest checkpoint in `folders` and train on what the spool has behind it, up to `version`.

    The trainer is fresh. `on_torch(function, *arguments)` runs a function on its thread; `on_version` is told of every
    version on the way. Raises `RunFailed` when that version cannot be reached.
    """
    start = await _start(trainer, spool, folders, version, on_torch)
    _log.info("taking up version %d from version %d", version, start)
    for step in range(start, version):
        await on_version(step)
        spooled = await asyncio.to_thread(spool.read, step)
        if spooled.num_trained != groups_per_step:
            raise RunFailed(
                f"the learner cannot reach version {version} again: the spool {spool.folder} has {spooled.num_trained} "
                f"of the {groups_per_step} groups of step {step}"
            )
        for chunk in spooled.chunks:
            await on_torch(trainer.accumulate, chunk)
        stats = await on_torch(trainer.apply_step)
        if stats.version != step + 1:
            raise RunFailed(f"step {step} was taken up again and made version {stats.version}")
    await on_version(version)


async def _start(
    trainer: Replays,
    spool: Spool,
    folders: tuple[Path, ...],
    version: int,
    on_torch: Callable[..., Awaitable[Any]],
) -> int:
    """Load the latest checkpoint from which the spool leads on; return its version, 0 for the model folder's own."""
    spooled = frozenset(await asyncio.to_thread(spool.steps))
    reasons = []
    for point, path in await asyncio.to_thread(restart_points, *folders):
        if point > version or not spooled.issuperset(range(point, version)):
            reasons.append(f"{path} is not followed by the spool")
            continue
        try:
            await on_torch(trainer.load_checkpoint, path)
        except ProtocolError as error:
            _log.warning("%s cannot be gone on from: %s", path, error)
            reasons.append(str(error))
        else:
            return point
    if reasons or not spooled.issuperset(range(version)):
        raise RunFailed(
            f"the learner cannot reach version {version} again: {'; '.join(reasons) or 'there is no checkpoint'}; the "
            f"spool {spool.folder} has steps {sorted(spooled)}"
        )
    return 0
