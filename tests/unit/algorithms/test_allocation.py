"""Shares of a total: exhaustive search on small cases, a heap greedy on larger ones, bounds and clamping."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.allocation import allocate, weights

signals_st = st.lists(st.floats(0, 1e6, allow_nan=False) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=5)


def by_heap(signals: list[float], total: int, low: int, high: int) -> list[int]:
    share = weights(signals).tolist()
    counts = [low] * len(share)
    heap = [(-w / (low * (low + 1.0)), i) for i, w in enumerate(share)] if low < high else []
    heapq.heapify(heap)
    for _ in range(total - low * len(share)):
        _, i = heapq.heappop(heap)
        counts[i] += 1
        if counts[i] < high:
            heapq.heappush(heap, (-share[i] / (counts[i] * (counts[i] + 1.0)), i))
    return counts


def test_weights_by_hand():
    assert weights([1, 3]).tolist() == [0.5, 1.5]
    assert weights([0, 0]).tolist() == [1, 1]
    assert weights([1, float("nan")]).tolist() == [1, 1]
    assert weights([0, 2]).tolist() == [1e-3, 2]
    assert weights([]).size == 0


def test_by_hand():
    # w = 0.5, 1.5; gains from 1: 0.25 | 0.75, then 0.25 (1.5/6) for the second prompt's next step: a tie goes first.
    assert allocate([1, 3], 3, 1, 4).counts.tolist() == [1, 2]
    assert allocate([1, 3], 4, 1, 4).counts.tolist() == [2, 2]
    assert allocate([1, 3], 5, 1, 4).counts.tolist() == [2, 3]
    assert allocate([5, 5, 5], 11, 2, 9).counts.tolist() == [4, 4, 3]


@settings(deadline=None)
@given(signals=signals_st, low=st.integers(1, 4), width=st.integers(0, 3), data=st.data())
def test_equals_exhaustive_search(signals: list[float], low: int, width: int, data: st.DataObject):
    high, num = low + width, len(signals)
    total = data.draw(st.integers(num * low, num * high))
    share = weights(signals)
    best = min(
        float(np.sum(share / np.array(plan)))
        for plan in itertools.product(range(low, high + 1), repeat=num)
        if sum(plan) == total
    )
    result = allocate(signals, total, low, high)
    assert result.clamped == 0
    assert result.counts.sum() == total
    assert low <= result.counts.min() and result.counts.max() <= high
    assert float(np.sum(share / result.counts)) == pytest.approx(best, rel=1e-12)


@settings(deadline=None)
@given(
    signals=st.lists(st.floats(0, 1e4) | st.sampled_from([3.0, 7.0]), min_size=1, max_size=60),
    low=st.integers(1, 12),
    width=st.integers(0, 40),
    data=st.data(),
)
def test_equals_the_heap_greedy_ties_included(signals: list[float], low: int, width: int, data: st.DataObject):
    total = data.draw(st.integers(len(signals) * low, len(signals) * (low + width)))
    assert allocate(signals, total, low, low + width).counts.tolist() == by_heap(signals, total, low, low + width)


@settings(deadline=None)
@given(signals=signals_st, total=st.integers(-50, 200))
def test_totals_that_do_not_fit_are_clamped_and_reported(signals: list[float], total: int):
    num = len(signals)
    result = allocate(signals, total, 4, 9)
    assert result.counts.sum() == min(max(total, 4 * num), 9 * num)
    assert result.clamped == result.counts.sum() - total


def test_a_larger_signal_never_gets_less():
    signals = np.random.default_rng(0).lognormal(5, 1, 2000)
    counts = allocate(signals, 24_000, 8, 16).counts[np.argsort(signals)]
    assert counts.sum() == 24_000
    assert np.all(np.diff(counts) >= 0)
    assert {8, 16} <= set(counts.tolist())


def test_nothing_to_allot_and_bounds_that_are_none():
    assert allocate([], 5, 8, 16).clamped == -5
    with pytest.raises(ValueError, match=r"bounds 3\.\.2"):
        allocate([1.0], 3, 3, 2)
