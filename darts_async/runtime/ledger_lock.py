"""Who writes a ledger: one process at a time, and as long as it lives.

The kernel drops the lock with its holder, however that ends; so the lock also tells whether a run is going on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Final

__all__ = ["LedgerLock"]

_READERS_S: Final = 1.0
"""Readers hold the lock for the moment in which they ask; longer than this, it is somebody else."""


class LedgerLock:
    """The writer's lock on a ledger's folder, in the file `lock` there."""

    def __init__(self, folder: Path) -> None:
        """Take it. Raises `BlockingIOError` when another process has it, `OSError` when the folder allows none."""
        self._descriptor: int | None = os.open(
            folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        try:
            _take(self._descriptor)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let another process write. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    @staticmethod
    def is_taken(folder: Path) -> bool:
        """Whether a process writes the ledger now. False where the file system has no locks."""
        try:
            descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _try(descriptor, fcntl.LOCK_SH)
        except OSError:
            return False
        finally:
            os.close(descriptor)


def _take(descriptor: int) -> None:
    deadline_s = time.monotonic() + _READERS_S
    while not _try(descriptor, fcntl.LOCK_EX):
        if not _try(descriptor, fcntl.LOCK_SH) or time.monotonic() > deadline_s:
            raise BlockingIOError(errno.EAGAIN, "another process writes this ledger")
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.sched_yield()


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
