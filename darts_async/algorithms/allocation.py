"""How many candidates each prompt gets."""

from __future__ import annotations

import math


class FixedMean:
    """The same number for every prompt, up to rounding: after i groups exactly floor(i * mean) candidates were given.

    A fractional mean alternates between its two neighbours as evenly as integers allow. Bounds are the caller's:
    `low <= mean <= high` with integer bounds keeps every single number within them.
    """

    def __init__(self, mean: float) -> None:
        if mean < 1:
            raise ValueError(f"a mean of {mean} candidates leaves prompts without any")
        self._mean = mean
        self._groups = 0

    def next(self) -> int:
        """Return the number of candidates for the next group."""
        before = math.floor(self._groups * self._mean + 1e-9)
        self._groups += 1
        return math.floor(self._groups * self._mean + 1e-9) - before
