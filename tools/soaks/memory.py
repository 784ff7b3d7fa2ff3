"""Resident memory over the length of a soak, and whether it is flat once the process is warm."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

WARM_SHARE = 0.2
"""Of a soak's work: allocators, caches and pools fill up meanwhile."""
EDGE_SHARE = 0.1
"""Of a soak's work, at either end of what follows: medians over it are compared."""


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


@dataclass
class MemoryTrace:
    """Samples of several processes against the work done so far. Bounded by how often it is asked to sample."""

    pids: Mapping[str, int]
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """(share of the work done, bytes by process)."""

    def sample(self, share: float) -> None:
        """Take one sample."""
        self.samples.append((share, {name: rss_bytes(pid) for name, pid in self.pids.items()}))

    def growth(self, name: str) -> float:
        """Relative growth from right after the warm-up to the end; nan without samples there."""
        first = self._median(name, WARM_SHARE, WARM_SHARE + EDGE_SHARE)
        last = self._median(name, 1 - EDGE_SHARE, 1.0)
        return last / first - 1 if first else float("nan")

    def last_mib(self, name: str) -> float:
        """Of the last sample."""
        return self.samples[-1][1][name] / 2**20 if self.samples else float("nan")

    def _median(self, name: str, low: float, high: float) -> float:
        inside = [sizes[name] for share, sizes in self.samples if low <= share <= high]
        return statistics.median(inside) if inside else 0.0

    def rows(self, most: int = 12) -> list[str]:
        """A line each for some of the samples, evenly spaced."""
        every = max(1, len(self.samples) // most)
        return [
            f"{share:6.1%}  " + "  ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in sizes.items())
            for share, sizes in self.samples[::every]
        ]
