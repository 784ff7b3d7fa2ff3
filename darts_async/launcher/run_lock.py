"""The lock of a run folder, `<run>/lock`: whoever has it is the one start of the run that is alive.

It is held by the launcher and, through the descriptor that they inherit, by every role that it starts: the kernel lets
go of it when the last of them is gone, however they ended. So a launcher that is killed leaves it taken until its roles
are gone too. The file says which processes those are, for whoever has to wait. Advisory (flock), on one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec

from darts_async.launcher import process_group
from darts_async.launcher.shared_weights import started
from darts_async.owned_files import remove_folder

__all__ = ["Holder", "RunIsAlive", "RunLock"]

_NAME: Final = "lock"
_MAX_BYTES: Final = 1 << 20
_LOOK_S: Final = 0.1
"""The kernel tells nobody that a lock is free, unless one blocks in it."""
_SOCKETS: Final = "darts-"
Pid = Annotated[int, msgspec.Meta(ge=1)]
Process = tuple[Pid, str]
"""Process id, and when it started in the kernel's ticks: tells a number that was given out again apart."""


class Holder(msgspec.Struct, kw_only=True):
    """Who has the lock, or had it last."""

    launcher: Process
    sockets: str = ""
    """Folder of its sockets."""
    groups: list[Process] = []
    """Leaders of the process groups that it has started."""


class RunIsAlive(Exception):
    """Another process has the lock."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(holder)
        self.holder = holder

    @property
    def launcher_lives(self) -> bool:
        """Whether it is a launcher, not what a dead one has left."""
        return self.holder is None or _lives(self.holder.launcher)

    def __str__(self) -> str:
        if self.holder is None:
            return "another process is using the run folder"
        if self.launcher_lives:
            return f"its launcher (process {self.holder.launcher[0]}) is running"
        return f"processes of its last start are still there: {', '.join(map(str, _left(self.holder))) or 'ending'}"


class RunLock:
    """The lock, taken. `release` it when nothing of the run is left."""

    def __init__(self, descriptor: int, last: Holder | None) -> None:
        """For `take`."""
        self.descriptor = descriptor
        """To be passed on to every role."""
        self.last = last
        """The start that had it before."""
        pid = os.getpid()
        self._holder = Holder(launcher=(pid, started(pid)))
        self._write()

    @classmethod
    def take(cls, root: Path) -> Self:
        """Take the lock of a folder. Raises `RunIsAlive`, `OSError`."""
        return cls._take(root, empty=False)

    @classmethod
    async def take_over(cls, root: Path, timeout_s: float, note: Callable[[str], None]) -> Self:
        """Take the lock of a run whose launcher is gone, once everything that it had started is gone too.

        `note` is told when that takes a moment. Raises `RunIsAlive` when the launcher lives, or when something of the
        last start is left after the time; `OSError`.
        """
        deadline_s = time.monotonic() + timeout_s
        told = False
        while True:
            try:
                return cls._take(root, empty=True)
            except RunIsAlive as alive:
                if alive.launcher_lives or time.monotonic() > deadline_s:
                    raise
                if not told:
                    note(f"waiting up to {timeout_s:g} s: {alive}")
                    told = True
            await asyncio.sleep(_LOOK_S)

    @classmethod
    def _take(cls, root: Path, *, empty: bool) -> Self:
        """`empty`: only when nothing is left of the last holder. What it had started does not inherit the lock further:
        it is told to die with it, and takes a moment."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(root / _NAME, flags, 0o600)
        last = _read(descriptor)
        if _try_lock(descriptor) and not (empty and last is not None and _left(last)):
            return cls(descriptor, _read(descriptor))
        os.close(descriptor)
        raise RunIsAlive(last)

    def started(self, leader: int) -> None:
        """A role is under way, in a process group of its own."""
        self._holder.groups.append((leader, started(leader)))
        self._write()

    def bound(self, sockets: Path) -> None:
        """The sockets are in this folder."""
        self._holder.sockets = str(sockets)
        self._write()

    def clear_sockets(self) -> None:
        """Remove the socket folder that the last start left behind, if it is one and this user's."""
        folder = Path(self.last.sockets) if self.last is not None and self.last.sockets else None
        if folder is None or not folder.name.startswith(_SOCKETS):
            return
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                remove_folder(folder)

    def release(self) -> None:
        """Let another start have it. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write(self) -> None:
        data = msgspec.json.encode(self._holder)
        with contextlib.suppress(OSError):  # it only tells people who has it
            os.pwrite(self.descriptor, data, 0)
            os.ftruncate(self.descriptor, len(data))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, _MAX_BYTES, 0), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None  # nobody had it yet, or it is being written


def _lives(process: Process) -> bool:
    return bool(process[1]) and started(process[0]) == process[1]


def _left(holder: Holder) -> list[int]:
    """Processes of a holder's groups that are alive."""
    found = set()
    for pid, since in holder.groups:
        now = started(pid)
        if not now or now == since:  # else the number was given to a stranger, so the group was empty by then
            found |= set(process_group.members(pid))
    return sorted(found)
