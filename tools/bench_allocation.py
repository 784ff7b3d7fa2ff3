"""Time the allocation of a budget beside a plain heap and the paper's list greedy: `python tools/bench_allocation.py`.

The same signals (log-normal, as measured stds are), a mean of 12 in [8, 16]. All three are exact, and their counts are
compared. The list greedy rebuilds its gains at every step (quadratic), so it runs on small sizes only.
"""

import argparse
import heapq
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from darts_async.algorithms.allocation import allocate, weights

LOW, HIGH, MEAN = 8, 16, 12
LIST_LIMIT = 1_000


def by_heap(signals: np.ndarray, total: int) -> np.ndarray:
    """Unit steps from a heap of gains: O(steps log prompts)."""
    share = weights(signals).tolist()
    counts = [LOW] * len(share)
    heap = [(-w / (LOW * (LOW + 1.0)), i) for i, w in enumerate(share)]
    heapq.heapify(heap)
    for _ in range(total - LOW * len(share)):
        _, i = heapq.heappop(heap)
        counts[i] += 1
        if counts[i] < HIGH:
            heapq.heappush(heap, (-share[i] / (counts[i] * (counts[i] + 1.0)), i))
    return np.array(counts)


def by_list(signals: np.ndarray, total: int) -> np.ndarray:
    """Unit steps by the largest entry of a list that is rebuilt every time, as in the paper's solver."""
    share = weights(signals).tolist()
    counts = [LOW] * len(share)
    for _ in range(total - LOW * len(share)):
        gains = [w / (m * (m + 1.0)) if m < HIGH else -1.0 for w, m in zip(share, counts, strict=True)]
        counts[gains.index(max(gains))] += 1
    return np.array(counts)


def allocation_rows(smoke: bool = False) -> list[tuple[str, ...]]:
    """Return a head and one row per size: seconds of each way (median of 3 for ours), whether their counts agree.

    `smoke`: small sizes only. The list greedy is left out beyond `LIST_LIMIT` prompts.
    """
    rows: list[tuple[str, ...]] = [("prompts", "bisection s", "heap s", "heap / bisection", "list greedy s", "counts")]
    for num in (100, 300) if smoke else (1_000, 10_000, 100_000):
        signals = np.random.default_rng(num).lognormal(5.0, 0.8, num)
        total = MEAN * num
        timed = [_timed(lambda s=signals, t=total: allocate(s, t, LOW, HIGH).counts) for _ in range(3)]
        ours_s, counts = statistics.median(seconds for seconds, _ in timed), timed[0][1]
        heap_s, heap = _timed(lambda s=signals, t=total: by_heap(s, t))
        equal, list_text = np.array_equal(counts, heap), "-"
        if num <= LIST_LIMIT:
            list_s, listed = _timed(lambda s=signals, t=total: by_list(s, t))
            equal, list_text = equal and np.array_equal(counts, listed), f"{list_s:.4f}"
        verdict = "equal" if equal else "DIFFER"
        rows.append((f"{num:,}", f"{ours_s:.4f}", f"{heap_s:.4f}", f"{heap_s / ours_s:.0f}x", list_text, verdict))
    return rows


def _timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def main() -> int:
    """Print the rows; return 1 when the ways disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small sizes only")
    rows = allocation_rows(parser.parse_args().smoke)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    return 1 if any("DIFFER" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
