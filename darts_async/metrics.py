"""Numbers for people: percentiles of samples, and the JSON lines file. Names are `role/thing_unit` (DESIGN 4.4)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from darts_async import clock
from darts_async.owned_files import open_log


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile (one of the samples), or NaN when there are none."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    rank = max(1, math.ceil(percent / 100 * len(ordered)))
    return ordered[rank - 1]


class BusyClock:
    """How long at least one thing has been running, by the monotonic clock."""

    def __init__(self) -> None:
        self._since = self._born = clock.now_s()
        self._busy_s = 0.0
        self.num_running = 0

    def change(self, by: int) -> None:
        """Count things that begin (+1) or end (-1)."""
        now = clock.now_s()
        if self.num_running:
            self._busy_s += now - self._since
        self._since = now
        self.num_running += by

    def read(self) -> tuple[float, float]:
        """Return seconds busy and seconds in all."""
        self.change(0)
        return self._busy_s, clock.now_s() - self._born


class JsonlWriter:
    """Appends one JSON object per line; each line is on disk (in the page cache) when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = os.fdopen(open_log(path), "a", encoding="utf-8")

    def write(self, values: Mapping[str, float | int | str]) -> None:
        """Append one object. Values that are not finite are left out: JSON has no NaN."""
        kept = {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}
        self._file.write(json.dumps(kept) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
