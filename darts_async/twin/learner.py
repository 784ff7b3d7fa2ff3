"""The learner's computing as a model: groups take time by their tokens, a step some more; lengths follow selection.

Takes the place of `engines.trainer.PolicyTrainer`; the actor around it is the real one. It never touches weights: the
files that it publishes and saves are empty, and only there because others look at their names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from darts_async.engines.step_stats import StepStats
from darts_async.engines.token_sums import TokenSums
from darts_async.messages import TrainGroup
from darts_async.twin.machine import Machine
from darts_async.twin.policy import Policy
from darts_async.twin.profile import LearnerProfile
from darts_async.twin.virtual_time import charge

__all__ = ["TwinTrainer"]


class TwinTrainer:
    """What the learner's thread works with."""

    def __init__(self, profile: LearnerProfile, policy: Policy, machine: Machine) -> None:
        self._profile = profile
        self._policy = policy
        self._machine = machine
        self._version = 0
        self._sums = TokenSums()
        self._trained: list[tuple[int, list[int]]] = []

    def accumulate(self, groups: Sequence[TrainGroup]) -> TokenSums:
        """Train on these groups."""
        sums = TokenSums(micro_batches=1)
        for group in groups:
            lengths: list[int] = group.lengths.tolist()
            sums.tokens += sum(lengths)
            sums.padded_tokens += sum(lengths) + len(lengths) * group.prompt_tokens.size
            self._trained.append((int(group.prompt_tokens[0]), lengths))
        sums.weight = sums.weight_square = sums.denominator = float(sums.tokens)
        self._compute(self._profile.call_s + sums.padded_tokens * self._profile.token_s)
        self._sums += sums
        return sums

    def apply_step(self) -> StepStats:
        """End the step."""
        self._compute(self._profile.step_s)
        self._version += 1
        self._policy.trained(self._version, self._trained)
        sums, self._sums, self._trained = self._sums, TokenSums(), []
        return StepStats(version=self._version, skipped=False, grad_norm=0.0, lr=0.0, sums=sums)

    def publish(self, path: Path) -> None:
        """Write no weights."""
        self._compute(self._profile.publish_s)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        """Write none."""
        folder.mkdir(parents=True, exist_ok=True)

    save_recovery = save_checkpoint

    def abandon(self) -> None:
        """Give up the open step."""
        self._sums, self._trained = TokenSums(), []

    def close(self) -> None:
        """Nothing to end."""

    def _compute(self, seconds: float) -> None:
        if self._machine.engine_decodes:
            seconds *= self._profile.beside_generator
        if seconds:
            self._machine.learner(+1)
            asyncio.get_running_loop().call_later(seconds, self._machine.learner, -1)
        charge(seconds)
