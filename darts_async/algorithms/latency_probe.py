"""What one replica measures for the budget: seconds per token, by how many candidates were decoding.

A sample is the time between two outputs of one candidate over the tokens of the second one. Outputs around a weight
swap are left out (the engine stood still). Pure: times come in as arguments. Must stay cheap, it is called for every
output event, and bounded: beyond `MAX_PENDING` samples between two `take`s, further ones are dropped.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LatencyProbe"]

MAX_PENDING: Final = 4096


class LatencyProbe:
    """Collects samples of all candidates of a replica."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, int]] = {}
        self._running: list[int] = []
        self._per_token_s: list[float] = []
        self._epoch = 0

    def output(self, candidate: int, num_tokens: int, num_running: int, now_s: float) -> None:
        """A candidate put out `num_tokens` more tokens while `num_running` were decoding."""
        before = self._last.get(candidate)
        self._last[candidate] = (now_s, self._epoch)
        if before is not None and num_tokens > 0 and before[1] == self._epoch and len(self._running) < MAX_PENDING:
            self._running.append(num_running)
            self._per_token_s.append((now_s - before[0]) / num_tokens)

    def ended(self, candidate: int) -> None:
        """A candidate decodes no more."""
        self._last.pop(candidate, None)

    def interrupted(self) -> None:
        """The engine stands still, or goes on: what spans this moment does not count."""
        self._epoch += 1

    def take(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the median latency at each concurrency since the last call: int32 [num], float32 [num]."""
        running = np.asarray(self._running, dtype=np.int32)
        seconds = np.asarray(self._per_token_s, dtype=np.float32)
        self._running, self._per_token_s = [], []
        levels = np.unique(running)
        medians = [float(np.median(seconds[running == level])) for level in levels]
        return levels, np.asarray(medians, dtype=np.float32)
