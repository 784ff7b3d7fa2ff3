"""The folder in shared memory through which weights are published: one a run, owned by its launcher's process.

Invariant: a folder whose owner is gone is removed at the next start of any run, so that killed runs cannot fill the
machine's memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_OWNER = "owner"
_PREFIX = "darts-async-"


def create(folder: Path) -> None:
    """Make a run's folder, and remove those that dead launchers left beside it. Raises `OSError`."""
    for other in folder.parent.glob(f"{_PREFIX}*"):
        if other == folder or _is_abandoned(other):
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / _OWNER).write_text(f"{os.getpid()} {started(os.getpid())}", "utf-8")


def remove(folder: Path) -> None:
    """Remove a run's folder."""
    shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether the process that owned a folder is gone. A folder of another user cannot be read and is left alone."""
    try:
        pid, _, since = (folder / _OWNER).read_text("utf-8").partition(" ")
        return started(int(pid)) != since
    except (OSError, ValueError):
        return False


def started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when none lives. Tells a number that was given out again
    apart."""
    with contextlib.suppress(OSError):
        # The name, in parentheses, may hold spaces: fields are counted from behind it; starttime is the 22nd in all.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
