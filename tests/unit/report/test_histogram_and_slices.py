"""What a report holds in memory while it reads: it loses no count, and does not grow."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.report.histogram import Histogram
from darts_async.report.slices import Slices

LENGTHS = st.lists(st.integers(0, 1 << 20), min_size=1, max_size=200)


def histogram(values: list[int]) -> Histogram:
    found = Histogram()
    for value in values:
        found.add(value)
    return found


@given(LENGTHS, LENGTHS)
def test_merging_is_entering_all(ours: list[int], theirs: list[int]):
    merged = histogram(ours)
    merged.merge(histogram(theirs))
    whole = histogram(ours + theirs)
    edges = [0.0, 10.0, 1000.0, float(1 << 20)]
    assert (merged.count, merged.total) == (len(ours) + len(theirs), sum(ours) + sum(theirs))
    assert merged.shares(edges) == pytest.approx(whole.shares(edges))


@given(LENGTHS, st.floats(0.01, 1.0))
def test_a_quantile_is_within_a_bucket_of_the_true_one(values: list[int], share: float):
    true = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    assert histogram(values).quantile(share) == pytest.approx(true, rel=0.012, abs=0)


@given(LENGTHS, st.integers(1, 50), st.integers(1, 60))
def test_shares_are_all_of_it(values: list[int], width: int, bins: int):
    shares = histogram(values).shares([float(width * index) for index in range(bins + 1)])
    assert sum(shares) == pytest.approx(1.0)


def test_short_lengths_are_told_apart():
    assert histogram([3, 3, 4, 9]).shares([0.0, 3.0, 4.0, 5.0, 10.0]) == [0.0, 0.5, 0.25, 0.25]


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=100), st.integers(2, 9))
def test_slices_lose_nothing_and_stay_few(positions: list[int], most: int):
    slices = Slices(Histogram, most=most)
    for position in positions:
        slices.at(position).add(position)
    assert len(slices) <= most
    for start, found in slices:
        inside = [p for p in positions if start <= p < start + slices.width]
        assert (found.count, found.total) == (len(inside), sum(inside))
    assert sum(found.count for _, found in slices) == len(positions)
