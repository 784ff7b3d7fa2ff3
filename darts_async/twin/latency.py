"""Per-token latency by concurrency: straight lines through a profile's points. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["LatencyCurve"]


class LatencyCurve:
    """Seconds of a decode step. Calls with small numbers are looked up in a table."""

    def __init__(self, points: Sequence[tuple[float, float]], max_running: int) -> None:
        """points: (candidates decoding, seconds), by rising number. max_running: the table's size."""
        counts, seconds = np.array([p[0] for p in points]), np.array([p[1] for p in points])
        wanted = np.arange(max_running + 1, dtype=float)
        table = np.interp(wanted, counts, seconds)
        if len(points) > 1:
            slope = max(0.0, (seconds[-1] - seconds[-2]) / (counts[-1] - counts[-2]))
            beyond = wanted > counts[-1]
            table[beyond] = seconds[-1] + slope * (wanted[beyond] - counts[-1])
        self._table: list[float] = table.tolist()

    def at(self, num_running: int) -> float:
        """Return the seconds that each of so many candidates takes for a token."""
        return self._table[min(num_running, len(self._table) - 1)]
