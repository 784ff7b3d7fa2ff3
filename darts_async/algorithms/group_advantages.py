"""From a group as it arrives to the advantages of its responses: overlong shaping, then the configured estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from darts_async.algorithms.advantages import Rewards, find_advantage
from darts_async.algorithms.overlong import soft_overlong

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.messages import TrainGroup

__all__ = ["GroupAdvantages"]


class GroupAdvantages:
    """The run's settings, applied to one group at a time."""

    def __init__(self, config: Config) -> None:
        """Raises `ConfigError` for an estimator that cannot be loaded."""
        self._cap = config.model.max_response_tokens
        self._buffer = config.learner.overlong_buffer_tokens
        self._penalty = config.learner.overlong_penalty
        self._advantage = find_advantage(config.learner.advantage)

    def __call__(self, group: TrainGroup) -> Rewards:
        """Return float32 [n]. Both the rewards and those of the baseline are shaped, each by its own length."""
        return self._advantage(
            self._shaped(group.rewards, group.lengths), self._shaped(group.baseline_rewards, group.baseline_lengths)
        )

    def _shaped(self, rewards: Rewards, lengths: npt.NDArray[np.int32]) -> Rewards:
        return soft_overlong(
            rewards, lengths, max_response_tokens=self._cap, buffer_tokens=self._buffer, penalty=self._penalty
        )
