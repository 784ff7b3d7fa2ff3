"""A child that outlives its parent is an orphan nobody cleans up: ask the kernel to kill it instead.

`PR_SET_PDEATHSIG` (Linux) sends a signal when the thread that started this process ends, SIGKILL of the parent
included. It is not inherited by this process's own children: each has to ask for itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent_pid: int | None = None) -> bool:
    """Have this process killed when its parent dies. Returns False where the system cannot do it (not Linux).

    parent_pid: who the parent should be, when the caller was told. Whoever died before the request could reach the
    kernel will never trigger it, so the parent is compared afterwards, and this process exits (status 1) when it has
    changed. Without `parent_pid` only the moment of the call itself is covered.
    Raises `OSError` when the kernel refuses.
    """
    if not sys.platform.startswith("linux"):
        return False
    expected = os.getppid() if parent_pid is None else parent_pid
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != expected:
        os._exit(1)
    return True
