"""The order in which prompts are visited: a new seeded permutation every epoch.

A *draw* is one visit: draw d is the d-th from the start of the run. It outlives everything that happens to its group: a
group that was lost starts again for the same draw, and the seeds of its responses follow from it.
"""

from __future__ import annotations

import numpy as np


class PromptOrder:
    """Endless, seeded order over `num_prompts` prompts; each epoch visits every prompt once.

    `cursor` counts the draws so far and is all the state there is: an order with the same seed and cursor goes on
    where the other one stopped.
    """

    def __init__(self, num_prompts: int, seed: int, cursor: int = 0) -> None:
        if num_prompts < 1:
            raise ValueError("an order needs at least one prompt")
        self._num_prompts = num_prompts
        self._seed = seed
        self.cursor = cursor
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def next(self) -> int:
        """Return the number of the next draw."""
        self.cursor += 1
        return self.cursor - 1

    def prompt_of(self, draw: int) -> int:
        """Return the index of the prompt that a draw visits."""
        epoch, position = divmod(draw, self._num_prompts)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng((self._seed, epoch)).permutation(self._num_prompts)
            self._epoch = epoch
        return int(self._permutation[position])
