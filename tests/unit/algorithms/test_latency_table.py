"""Latencies by concurrency: means by bucket, bounded, and the same after a trip through a summary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.latency_table import LatencyTable

SAMPLES = st.lists(st.tuples(st.integers(1, 4096), st.floats(1e-4, 1.0)), max_size=60)


def table_of(samples: list[tuple[int, float]]) -> LatencyTable:
    table = LatencyTable()
    table.add([float(running) for running, _ in samples], [seconds for _, seconds in samples])
    return table


def test_means_by_hand():
    table = table_of([(1, 0.01), (1, 0.03), (8, 0.05), (100, 0.2), (101, 0.4)])
    assert table.points() == [(1.0, 0.02, 2), (8.0, 0.05, 1), (100.5, pytest.approx(0.3), 2)]


@given(SAMPLES)
def test_nothing_is_lost_and_buckets_rise(samples: list[tuple[int, float]]):
    points = table_of(samples).points()
    assert sum(number for _, _, number in points) == len(samples)
    assert sum(seconds * number for _, seconds, number in points) == pytest.approx(sum(s for _, s in samples))
    assert [running for running, _, _ in points] == sorted(running for running, _, _ in points)
    assert len(points) <= 8 + 8 * 9


@given(SAMPLES)
def test_a_summary_keeps_it(samples: list[tuple[int, float]]):
    table = table_of(samples)
    again = LatencyTable.of_summary({"wall_s": 1.0, **table.summary()})
    assert [p for point in again.points() for p in point] == pytest.approx(
        [p for point in table.points() for p in point]
    )


@given(SAMPLES, SAMPLES)
def test_joined_tables_are_the_table_of_both(first: list[tuple[int, float]], second: list[tuple[int, float]]):
    joined = table_of(first)
    joined.merge(table_of(second).points())
    both = table_of([*first, *second]).points()
    assert sum(n for _, _, n in joined.points()) == sum(n for _, _, n in both)
