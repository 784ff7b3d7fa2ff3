"""PTL(b): seconds per token of a candidate when b candidates decode at once, from what replicas measured.

Samples fall into buckets of concurrency (each its own up to 16, then 8 per doubling); a bucket answers with the median
of its latest samples, so neither a few stalls nor an old warm-up count. Over the buckets the curve is the
non-decreasing least-squares fit (pool adjacent violators, weighted by the samples), linear in between.

Outside what was measured: below, the value at the lowest concurrency (too high at worst). Above, the line through the
last point with the mean slope over the upper half of the measured range, at most proportional to b: flat stays flat,
proportional stays proportional, and nothing is promised that no slope has shown.

Must never hold more than `WINDOW` samples for each of about 130 buckets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LatencyCurve", "LatencyFit", "isotonic"]

WINDOW: Final = 64
"""Samples kept per bucket: the latest."""
_EXACT: Final = 16
_PER_DOUBLING: Final = 8


def isotonic(values: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Return the non-decreasing sequence closest to `values` in weighted squares (PAV). [n], [n] -> float64 [n]."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(np.asarray(values, float).tolist(), np.asarray(weights, float).tolist(), strict=True):
        mean, mass, length = value, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, before_mass, before_length = blocks.pop()
            mean = (before * before_mass + mean * mass) / (before_mass + mass)
            mass += before_mass
            length += before_length
        blocks.append((mean, mass, length))
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks]).astype(np.float64)


class LatencyFit:
    """A non-decreasing curve through (concurrency, seconds per token)."""

    def __init__(self, concurrency: ArrayLike, per_token_s: ArrayLike) -> None:
        """Both [num >= 1]; concurrency increasing and positive, seconds non-decreasing."""
        self._x = np.asarray(concurrency, dtype=np.float64)
        self._y = np.asarray(per_token_s, dtype=np.float64)
        last_x, last_y = float(self._x[-1]), float(self._y[-1])
        middle = float(np.interp(0.5 * (float(self._x[0]) + last_x), self._x, self._y))
        span = 0.5 * (last_x - float(self._x[0]))
        slope = (last_y - middle) / span if span > 0 else math.inf
        self._slope = min(slope, last_y / last_x)

    def __call__(self, concurrency: ArrayLike) -> NDArray[np.float64]:
        """Seconds per token. Any shape -> float64, same shape."""
        x = np.asarray(concurrency, dtype=np.float64)
        beyond = np.maximum(x - self._x[-1], 0.0)
        return np.asarray(np.interp(x, self._x, self._y) + beyond * self._slope, dtype=np.float64)


class LatencyCurve:
    """The samples of all replicas of a run, and the curve they make."""

    def __init__(self) -> None:
        self._buckets: dict[int, deque[tuple[float, float]]] = {}
        self.num_samples = 0

    def add(self, concurrency: Iterable[int], per_token_s: Iterable[float]) -> None:
        """Take samples; what is not a positive finite number is ignored."""
        for running, seconds in zip(concurrency, per_token_s, strict=True):
            if running >= 1 and 0 < seconds < math.inf:
                bucket = self._buckets.setdefault(_bucket(running), deque(maxlen=WINDOW))
                bucket.append((float(running), float(seconds)))
                self.num_samples += 1

    def fit(self) -> LatencyFit | None:
        """Return the curve as it is known now; None without samples."""
        if not self._buckets:
            return None
        buckets = [np.asarray(self._buckets[key]) for key in sorted(self._buckets)]
        medians = [float(np.median(samples[:, 1])) for samples in buckets]
        curve = isotonic(medians, [len(samples) for samples in buckets])
        return LatencyFit([float(samples[:, 0].mean()) for samples in buckets], curve)


def _bucket(running: int) -> int:
    return running if running <= _EXACT else _EXACT + math.floor(_PER_DOUBLING * math.log2(running / _EXACT) + 1e-9)
