"""One reward worker as its pool sees it: a process that is started, asked, killed and started again.

Invariant: whoever holds a `RewardProcess` can always end its process, also after a cancelled start or kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from darts_async.errors import RunFailed
from darts_async.runtime.reward_worker import FRAME_HEADER_BYTES, MAX_FRAME_BYTES, Job, Loaded, Score, Setup, frame
from darts_async.runtime.spawn import spawn

__all__ = ["RewardProcess", "WorkerLost"]

_log = logging.getLogger(__name__)
_Reply = TypeVar("_Reply", Loaded, Score)

START_TIMEOUT_S: Final = 60.0
"""Longest time a worker may take to load its task; about half a second is usual."""
MAX_START_FAILURES: Final = 3
"""In a row, of one worker. After that the task cannot be loaded any more, and no score will ever come."""
MAX_GROWTH_BYTES: Final = 512 << 20
"""A worker whose memory has grown by this much since it loaded its task leaks, and is replaced."""
CLOSE_TIMEOUT_S: Final = 1.0


class WorkerLost(Exception):
    """The worker's process ended, or broke the protocol."""


class RewardProcess:
    """One worker process and its pipes."""

    def __init__(self, command: Sequence[str], setup: Setup) -> None:
        self.unusable = False
        """Hung, dead or leaking: replace it before the next call."""
        self.exit_text = "running"
        self.num_started = 0
        """Processes so far, this one included."""
        self._command = command
        self._setup = setup
        self._process: asyncio.subprocess.Process | None = None
        self._loaded_rss_bytes = 0

    @property
    def dead(self) -> bool:
        """Whether the process has ended, or is about to: its output has."""
        process = self._process
        if process is None or process.stdout is None:
            return True
        return process.returncode is not None or process.stdout.at_eof()

    async def start(self) -> None:
        """Start the process and have it load its task. Raises `RunFailed` after a few failures in a row."""
        for attempt in range(1, MAX_START_FAILURES + 1):
            try:
                await self._spawn()
            except WorkerLost as lost:
                await self.kill()
                _log.warning("a reward worker did not start (attempt %d): %s; %s", attempt, lost, self.exit_text)
                failure = f"the reward worker does not start: {lost} ({self.exit_text})"
            else:
                return
        raise RunFailed(failure)

    async def replace(self) -> None:
        """Kill the process and start another."""
        await self.kill()
        await self.start()

    async def ask(self, job: Job) -> Score:
        """Have one response scored. Raises `WorkerLost`; on a timeout the worker must be replaced."""
        score = await self._exchange(job, Score)
        if score.rss_bytes > self._loaded_rss_bytes + MAX_GROWTH_BYTES:
            _log.warning("a reward worker grew to %d MiB and is replaced", score.rss_bytes >> 20)
            self.unusable = True
        return score

    async def end(self) -> None:
        """Let the process end by itself (its input ends), and kill it if it does not."""
        process = self._process
        if process is not None and process.stdin is not None and not self.unusable:
            process.stdin.close()
            await self._wait_for_exit(process)
        await self.kill()

    async def kill(self) -> None:
        """Kill the process, if there is one, and reap it."""
        process = self._process
        if process is None:
            return
        if self.dead:
            await self._wait_for_exit(process)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.stdin is not None:
            process.stdin.close()
        # A kill takes no time to arrive, but a grandchild may hold the pipes that asyncio waits for.
        await self._wait_for_exit(process)
        self._process = None  # not before: when this wait is cancelled, somebody still has to reap it
        status = process.returncode
        if status is not None:
            self.exit_text = f"killed by signal {-status}" if status < 0 else f"exit status {status}"

    @staticmethod
    async def _wait_for_exit(process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await process.wait()

    async def _spawn(self) -> None:
        starting = asyncio.ensure_future(
            spawn(*self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_FRAME_BYTES)
        )
        try:
            self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._process = await starting  # a process that nobody holds could not be killed
            raise
        self.num_started += 1
        self.unusable = False
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                loaded = await self._exchange(self._setup, Loaded)
        except TimeoutError:
            raise WorkerLost(f"it did not load its task within {START_TIMEOUT_S:g} s") from None
        if loaded.error:
            raise RunFailed(f"the reward worker cannot load task {self._setup.task!r}: {loaded.error}")
        self._loaded_rss_bytes = loaded.rss_bytes

    async def _exchange(self, message: msgspec.Struct, reply: type[_Reply]) -> _Reply:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise WorkerLost("no process")
        try:
            process.stdin.write(frame(message))
            await process.stdin.drain()
            size = int.from_bytes(await process.stdout.readexactly(FRAME_HEADER_BYTES), "little")
            if size > MAX_FRAME_BYTES:
                raise WorkerLost(f"it sent a frame of {size} bytes")
            return msgspec.msgpack.decode(await process.stdout.readexactly(size), type=reply)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError) as error:
            # It is ending by itself. Let asyncio see its exit status: a kill would race for it.
            await self._wait_for_exit(process)
            raise WorkerLost(f"{type(error).__name__}") from error
        except msgspec.MsgspecError as error:
            raise WorkerLost(f"it sent something else than {reply.__name__}") from error
