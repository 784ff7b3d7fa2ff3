"""A pool of processes that score responses, one deadline per score.

A worker that hangs is killed and replaced, one that dies or grows too large is replaced, and only the candidate it
was working on fails. Invariants: every call of `score` ends, with a finite reward or with `RewardFailed`; no more
than `workers` processes exist; none of them outlives the pool, however it ends.

Each worker is driven by one task, which owns the process. Frames carry MessagePack, never pickles.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from darts_async import clock
from darts_async.config import Config
from darts_async.config.paths import model_folder
from darts_async.config.reward_rules import label_of
from darts_async.errors import RolloutError
from darts_async.runtime.reward_process import RewardProcess, WorkerLost
from darts_async.runtime.reward_scoring import RewardFunction, Scored
from darts_async.runtime.reward_worker import Job, Setup
from darts_async.tracing import Lane, current

__all__ = ["Pool", "PoolStats", "RewardFailed", "RewardPool", "Scored", "reward_setup"]

WORKER_COMMAND: Final = (sys.executable, "-m", "darts_async.runtime.reward_worker")


class RewardFailed(RolloutError):
    """A response that could not be scored."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        """`raised`, `not_finite`, `timeout`, `died` or `closed`."""


@dataclass(slots=True)
class PoolStats:
    """Counters, for gauges and tests."""

    scored: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class Pool(Protocol):
    """What the selector needs of whoever scores responses."""

    stats: PoolStats

    @property
    def waiting(self) -> int:
        """Scores that wait for a worker."""

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Return when responses can be scored."""

    async def score(self, prompt_id: str, tokens: np.ndarray) -> Scored:
        """Score one response. tokens: int32 [response_len]. Raises `RewardFailed`."""

    async def close(self) -> None:
        """End; whoever still waits gets `RewardFailed`. Idempotent."""


@dataclass(slots=True)
class _Call:
    job: Job
    answer: asyncio.Future[Scored]


def reward_setup(config: Config) -> Setup:
    """What the workers of a run load."""
    functions = [
        RewardFunction(name=one.name, label=label_of(one), weight=one.weight, params=one.params)
        for one in config.reward.functions
    ]
    return Setup(
        task=config.task.name,
        params=config.task.params,
        model_folder=str(model_folder(config)),
        functions=functions,
    )


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
        self._timeout_s = timeout_s
        own_command = (*command, str(os.getpid()))
        self._workers = [RewardProcess(own_command, setup) for _ in range(workers)]
        self._calls: asyncio.Queue[_Call] = asyncio.Queue(max_waiting)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Scores that wait for a worker."""
        return self._calls.qsize()

    @property
    def num_started(self) -> int:
        """Worker processes so far, replacements included."""
        return sum(worker.num_started for worker in self._workers)

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the workers in `tasks`; return when all can score. Raises `RunFailed` when the task cannot be loaded.

        A worker that can no longer be replaced fails its task, and so the task group.
        """
        workers = self._workers
        try:
            results = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
        except asyncio.CancelledError:
            await asyncio.gather(*(worker.kill() for worker in workers))
            raise
        failures = [result for result in results if result is not None]
        if failures:
            await asyncio.gather(*(worker.kill() for worker in workers))
            raise failures[0]
        lanes = (current().lane(f"reward {number}") for number in range(len(workers)))
        self._tasks = [tasks.create_task(self._drive(*pair)) for pair in zip(workers, lanes, strict=True)]

    async def score(self, prompt_id: str, tokens: np.ndarray) -> Scored:
        """Score one response. tokens: int32 [response_len]. Raises `RewardFailed`."""
        if self._closing.is_set():
            raise RewardFailed("closed", "the reward pool is closed")
        answer: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
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

    async def _drive(self, worker: RewardProcess, lane: Lane) -> None:
        """Feed one worker until cancelled; its process ends with this task."""
        call: _Call | None = None
        try:
            while True:
                call = await self._calls.get()
                if call.answer.done():  # whoever asked has gone
                    continue
                if worker.dead:  # killed from outside while it was idle: not this candidate's fault
                    await worker.replace()
                began = clock.now_s()
                result = await self._ask(worker, call.job)
                lane.span("reward", result.kind if isinstance(result, RewardFailed) else "score", began)
                self._settle(call, result)
                call = None
                if worker.unusable:
                    await worker.replace()
        finally:
            if call is not None:
                worker.unusable = True  # busy: it would not notice that its input has ended
                self._settle(call, RewardFailed("closed", "the reward pool is closed"))
            await worker.end()

    async def _ask(self, worker: RewardProcess, job: Job) -> Scored | RewardFailed:
        try:
            async with asyncio.timeout(self._timeout_s):
                score = await worker.ask(job)
        except TimeoutError:
            worker.unusable = True
            return RewardFailed("timeout", f"no score within reward.timeout_s = {self._timeout_s:g} s")
        except WorkerLost as lost:
            worker.unusable = True
            await worker.kill()
            return RewardFailed("died", f"the reward worker died while it scored ({lost}; {worker.exit_text})")
        if score.failure:
            return RewardFailed(score.failure, score.error)
        return Scored(score.reward, score.components)

    def _settle(self, call: _Call, result: Scored | RewardFailed) -> None:
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
