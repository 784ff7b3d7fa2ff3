"""The reward pool as a model: so many workers, each busy for a while with a response. In `RewardPool`'s place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from darts_async import clock
from darts_async.runtime.reward_pool import PoolStats, Scored
from darts_async.tracing import OFF, current
from darts_async.tracing.lane_pool import LanePool
from darts_async.twin.profile import RewardProfile

__all__ = ["TwinRewards"]


class TwinRewards:
    """Scores a response by its first token, which says whether it is correct."""

    def __init__(self, profile: RewardProfile, workers: int, score: Callable[[int], float]) -> None:
        self._profile = profile
        self._score = score
        self._free = asyncio.Semaphore(workers)
        self._waiting = 0
        self._lanes = LanePool(OFF, "reward")
        self.stats = PoolStats()

    @property
    def waiting(self) -> int:
        """Scores that wait for a worker."""
        return self._waiting

    async def start(self, tasks: asyncio.TaskGroup) -> None:  # noqa: ARG002 - no process is needed
        """Nothing to wait for."""
        self._lanes = LanePool(current(), "reward")

    async def score(self, prompt_id: str, tokens: np.ndarray) -> Scored:  # noqa: ARG002 - the response says it all
        """Return the reward, when a worker has had its time."""
        self._waiting += 1
        async with self._free:
            self._waiting -= 1
            if self._profile.score_s:
                began = clock.now_s()
                with self._lanes.borrowed() as lane:
                    await asyncio.sleep(self._profile.score_s)
                    lane.span("reward", "score", began)
        self.stats.scored += 1
        return Scored(self._score(int(tokens[0])))

    async def close(self) -> None:
        """Nothing to end."""
