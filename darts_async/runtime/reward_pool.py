"""A pool of processes that score responses, one deadline per score.

A worker that hangs is killed and replaced, one that dies or grows too large is replaced, and only the candidate it
was working on fails. Invariants: every call of `score` ends, with a finite reward or with `RewardFailed`; no more
than `workers` processes exist; none of them outlives the pool, however it ends.

Each worker is driven by one task, which owns the process. Frames carry MessagePack, never pickles.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
import numpy as np

from darts_async.errors import RolloutError, RunFailed
from darts_async.runtime.reward_worker import (
    FRAME_HEADER_BYTES,
    MAX_FRAME_BYTES,
    Job,
    Loaded,
    Score,
    Setup,
    frame,
)

__all__ = ["PoolStats", "RewardFailed", "RewardPool"]

_log = logging.getLogger(__name__)
_Reply = TypeVar("_Reply", Loaded, Score)

START_TIMEOUT_S: Final = 60.0
"""Longest time a worker may take to load its task; about half a second is usual."""
MAX_START_FAILURES: Final = 3
"""In a row, of one worker. After that the task cannot be loaded any more, and no score will ever come."""
MAX_GROWTH_BYTES: Final = 512 << 20
"""A worker whose memory has grown by this much since it loaded its task leaks, and is replaced."""
CLOSE_TIMEOUT_S: Final = 1.0

WORKER_COMMAND: Final = (sys.executable, "-m", "darts_async.runtime.reward_worker")


class RewardFailed(RolloutError):
    """A response that could not be scored."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        """`raised`, `not_finite`, `timeout`, `died` or `closed`."""


class _WorkerLost(Exception):
    """The worker's process ended, or broke the protocol."""


@dataclass(slots=True)
class PoolStats:
    """Counters, for gauges and tests."""

    scored: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    started: int = 0
    """Worker processes, replacements included."""


@dataclass(slots=True)
class _Call:
    job: Job
    answer: asyncio.Future[float]


class RewardPool:
    """Scores responses with the task of `setup`. `start` and `close` belong to the same task group's owner."""

    def __init__(
        self,
        setup: Setup,
        *,
        workers: int,
        timeout_s: float,
        max_waiting: int = 4096,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        """max_waiting: scores that may wait for a worker; `score` itself waits beyond that. command: for tests."""
        self.stats = PoolStats()
        self._setup = setup
        self._num_workers = workers
        self._timeout_s = timeout_s
        self._command = (*command, str(os.getpid()))
        self._calls: asyncio.Queue[_Call] = asyncio.Queue(max_waiting)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Scores that wait for a worker."""
        return self._calls.qsize()

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the workers in `tasks`; return when all can score. Raises `RunFailed` when the task cannot be loaded.

        A worker that can no longer be replaced fails its task, and so the task group.
        """
        workers = [_Worker(self._command, self._setup, self.stats) for _ in range(self._num_workers)]
        try:
            results = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
        except asyncio.CancelledError:
            await asyncio.gather(*(worker.kill() for worker in workers))
            raise
        failures = [result for result in results if result is not None]
        if failures:
            await asyncio.gather(*(worker.kill() for worker in workers))
            raise failures[0]
        self._tasks = [tasks.create_task(self._drive(worker)) for worker in workers]

    async def score(self, prompt_id: str, tokens: np.ndarray) -> float:
        """Score one response. tokens: int32 [response_len]. Raises `RewardFailed`."""
        if self._closing.is_set():
            raise RewardFailed("closed", "the reward pool is closed")
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        data = np.ascontiguousarray(tokens, dtype=np.int32).tobytes()
        await self._calls.put(_Call(Job(prompt_id=prompt_id, tokens=data), answer))
        if self._closing.is_set():
            self._fail_waiting()
        return await answer

    async def close(self) -> None:
        """End the workers; whoever still waits for a score gets `RewardFailed`. Idempotent."""
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        while not self._calls.empty():
            self._settle(self._calls.get_nowait(), RewardFailed("closed", "the reward pool is closed"))

    async def _drive(self, worker: _Worker) -> None:
        """Feed one worker until cancelled; its process ends with this task."""
        call: _Call | None = None
        try:
            while True:
                call = await self._calls.get()
                if call.answer.done():  # whoever asked has gone
                    continue
                if worker.dead:  # killed from outside while it was idle: not this candidate's fault
                    await worker.replace()
                self._settle(call, await self._ask(worker, call.job))
                call = None
                if worker.unusable:
                    await worker.replace()
        finally:
            if call is not None:
                worker.unusable = True  # busy: it would not notice that its input has ended
                self._settle(call, RewardFailed("closed", "the reward pool is closed"))
            await worker.end()

    async def _ask(self, worker: _Worker, job: Job) -> float | RewardFailed:
        try:
            async with asyncio.timeout(self._timeout_s):
                score = await worker.ask(job)
        except TimeoutError:
            worker.unusable = True
            return RewardFailed("timeout", f"no score within reward.timeout_s = {self._timeout_s:g} s")
        except _WorkerLost as lost:
            worker.unusable = True
            await worker.kill()
            return RewardFailed("died", f"the reward worker died while it scored ({lost}; {worker.exit_text})")
        if score.failure:
            return RewardFailed(score.failure, score.error)
        return score.reward

    def _settle(self, call: _Call, result: float | RewardFailed) -> None:
        if isinstance(result, RewardFailed):
            self.stats.failed[result.kind] += 1
        else:
            self.stats.scored += 1
        if call.answer.done():
            return
        if isinstance(result, RewardFailed):
            call.answer.set_exception(result)
        else:
            call.answer.set_result(result)


class _Worker:
    """One worker process and its pipes."""

    def __init__(self, command: Sequence[str], setup: Setup, stats: PoolStats) -> None:
        self.unusable = False
        """Hung, dead or leaking: replace it before the next call."""
        self.exit_text = "running"
        self._command = command
        self._setup = setup
        self._stats = stats
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
            except _WorkerLost as lost:
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
        """Have one response scored. Raises `_WorkerLost`; on a timeout the worker must be replaced."""
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
            asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_FRAME_BYTES
            )
        )
        try:
            self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._process = await starting  # a process that nobody holds could not be killed
            raise
        self._stats.started += 1
        self.unusable = False
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                loaded = await self._exchange(self._setup, Loaded)
        except TimeoutError:
            raise _WorkerLost(f"it did not load its task within {START_TIMEOUT_S:g} s") from None
        if loaded.error:
            raise RunFailed(f"the reward worker cannot load task {self._setup.task!r}: {loaded.error}")
        self._loaded_rss_bytes = loaded.rss_bytes

    async def _exchange(self, message: msgspec.Struct, reply: type[_Reply]) -> _Reply:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise _WorkerLost("no process")
        try:
            process.stdin.write(frame(message))
            await process.stdin.drain()
            size = int.from_bytes(await process.stdout.readexactly(FRAME_HEADER_BYTES), "little")
            if size > MAX_FRAME_BYTES:
                raise _WorkerLost(f"it sent a frame of {size} bytes")
            return msgspec.msgpack.decode(await process.stdout.readexactly(size), type=reply)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError) as error:
            # It is ending by itself. Let asyncio see its exit status: a kill would race for it.
            await self._wait_for_exit(process)
            raise _WorkerLost(f"{type(error).__name__}") from error
        except msgspec.MsgspecError as error:
            raise _WorkerLost(f"it sent something else than {reply.__name__}") from error
