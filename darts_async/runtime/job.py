"""The process shell around a job: a program of ours that is started with one plan, works it off and ends.

`python -m actors.<job> --plan FILE`. What it tells goes to standard output, a line an event; whatever else is printed,
by libraries too, goes to standard error, which is its log. An order to stop is SIGTERM: Ctrl-C belongs to whoever
started the job. Exit status: 0 done, 1 failed (the traceback is in the log), 130 stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import uvloop

from darts_async.log import configure
from darts_async.parent_death import die_with_parent

__all__ = ["Tell", "Work", "main", "unless_stopping"]

_log = logging.getLogger(__name__)

Tell: TypeAlias = Callable[[bytes], None]
"""Writes one line: a few bytes into a pipe whose reader does nothing else."""
Work: TypeAlias = Callable[[bytes, Tell, asyncio.Event], Awaitable[None]]
"""Gets the plan's bytes, where to tell, and the event that asks it to stop."""


def main(what: str, work: Work) -> None:
    """Run a job as a process. Never returns."""
    parser = argparse.ArgumentParser(description=f"{what} (started by the launcher).")
    parser.add_argument("--plan", required=True, type=Path, help="JSON file written by the launcher")
    arguments = parser.parse_args()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher turns Ctrl-C into an order to stop
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    configure()
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to the log, not between the events

    def tell(line: bytes) -> None:
        sink.write(line)
        sink.flush()

    status = uvloop.run(_run(work, arguments.plan.read_bytes(), tell))
    sys.stderr.flush()
    # Libraries leave threads and exit handlers behind that can hang; everything that matters is told by now.
    os._exit(status)


async def _run(work: Work, plan: bytes, tell: Tell) -> int:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        await work(plan, tell, stopping)
    except Exception:  # noqa: BLE001 - the outermost frame; the traceback is in the log
        _log.exception("the job cannot go on")
        return 1
    return 130 if stopping.is_set() else 0


async def unless_stopping(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Wait for it; cancel it and return False when the stop comes first. Raises what it raises."""
    job = asyncio.create_task(work)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({job, stop}, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            await job
            return True
        return False
    finally:
        stop.cancel()
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({job})
