"""The reward pool as a model: so many workers, each busy for a while with a response. In `RewardPool`'s place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from darts_async.runtime.reward_pool import PoolStats
from darts_async.twin.profile import RewardProfile

__all__ = ["TwinRewards"]


class TwinRewards:
    """Scores a response by its first token, which says whether it is correct."""

    def __init__(self, profile: RewardProfile, workers: int, score: Callable[[int], float]) -> None:
        self._profile = profile
        self._score = score
        self._free = asyncio.Semaphore(workers)
        self._waiting = 0
        self.stats = PoolStats()

    @property
    def waiting(self) -> int:
        """Scores that wait for a worker."""
        return self._waiting

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """No process is needed."""

    async def score(self, prompt_id: str, tokens: np.ndarray) -> float:  # noqa: ARG002 - the response says it all
        """Return the reward, when a worker has had its time."""
        self._waiting += 1
        async with self._free:
            self._waiting -= 1
            if self._profile.score_s:
                await asyncio.sleep(self._profile.score_s)
        self.stats.scored += 1
        return self._score(int(tokens[0]))

    async def close(self) -> None:
        """Nothing to end."""
