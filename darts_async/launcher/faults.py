"""What may be done to the processes of a run, and to no others.

Invariant: a signal goes only to a child of this process that is not reaped yet and leads its own process group; its
number cannot have passed to a stranger meanwhile. Who was stopped is continued, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from darts_async.launcher.roles import RoleProcess

__all__ = ["NotOurs", "frozen", "kill", "living", "pid_of"]

_PROC: Final = Path("/proc")


class NotOurs(Exception):
    """The process is gone, or is not one of this run's."""


def pid_of(role: RoleProcess) -> int:
    """The role's process and process group. Raises `NotOurs`."""
    pid = role.process.pid
    # Unreaped (no return code yet), so its number is still its own; the rest guards against a bug of ours.
    if role.process.returncode is not None:
        raise NotOurs(f"{role.name} (process {pid}) has ended")
    stat = _stat(pid)
    if stat is None or stat.parent != os.getpid() or stat.group != pid:
        raise NotOurs(f"process {pid} is not {role.name} of this run: {stat}")
    if stat.state == "Z":
        raise NotOurs(f"{role.name} (process {pid}) is ending")
    return pid


def kill(role: RoleProcess) -> int:
    """SIGKILL to the role's process alone, as the kernel's out-of-memory killer would; return its number."""
    pid = pid_of(role)
    os.kill(pid, signal.SIGKILL)
    return pid


@contextlib.contextmanager
def frozen(role: RoleProcess) -> Iterator[int]:
    """The role and its children (an engine, reward workers) stand still meanwhile. Raises `NotOurs`."""
    pid = pid_of(role)
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        # If it was killed meanwhile there is nobody to continue, and its number may be another's by now.
        with contextlib.suppress(NotOurs, ProcessLookupError):
            if pid_of(role) == pid:
                os.killpg(pid, signal.SIGCONT)


def living(groups: Iterable[int]) -> list[int]:
    """Processes of these process groups that live; what waits to be reaped does not."""
    wanted = set(groups)
    stats = {int(folder.name): _stat(int(folder.name)) for folder in _PROC.iterdir() if folder.name.isdigit()}
    return [pid for pid, stat in stats.items() if stat and stat.group in wanted and stat.state not in {"Z", "X"}]


class _Stat:
    """What the kernel says of a process."""

    def __init__(self, line: str) -> None:
        # The name stands in parentheses and may contain anything, parentheses included.
        state, parent, group = line.rpartition(")")[2].split()[:3]
        self.state, self.parent, self.group = state, int(parent), int(group)

    def __repr__(self) -> str:
        return f"state {self.state}, parent {self.parent}, group {self.group}"


def _stat(pid: int) -> _Stat | None:
    try:
        return _Stat((_PROC / str(pid) / "stat").read_text("utf-8", "replace"))
    except (OSError, ValueError):
        return None
