"""The fits find what made the data, and never anything negative."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.twin.fits import fit_cost, rising

POSITIVE = st.floats(1e-4, 10.0)


@given(POSITIVE, POSITIVE, st.floats(1.0, 3.0), st.integers(0, 1000))
def test_a_cost_is_found_again(call_s: float, token_s: float, factor: float, seed: int):
    chance = np.random.default_rng(seed)
    calls, tokens = chance.integers(1, 9, 40).astype(float), chance.uniform(100, 5000, 40)
    beside = chance.uniform(0, 1, 40)
    seconds = (call_s * calls + token_s * tokens) * (1 + (factor - 1) * beside)
    found = fit_cost(calls.tolist(), tokens.tolist(), seconds.tolist(), beside.tolist())
    assert found.factor == pytest.approx(factor, abs=0.013)  # the grid's half step
    assert found.token_s == pytest.approx(token_s, rel=0.02)
    assert found.error < 0.01


def test_what_does_not_vary_is_not_told_apart():
    found = fit_cost([1.0] * 5, [10.0, 20.0, 30.0, 40.0, 50.0], [11.0, 21.0, 31.0, 41.0, 51.0], [0.5] * 5)
    assert (found.factor, found.call_s, found.token_s) == (1.0, pytest.approx(1.0), pytest.approx(1.0))


def test_nothing_is_negative():
    found = fit_cost([1.0] * 4, [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [0.0] * 4)
    assert found.token_s == 0.0 and found.call_s == pytest.approx(2.5)
    found = fit_cost([1.0] * 4, [1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0], [0.0] * 4)
    assert found.call_s == 0.0 and found.token_s > 0


def test_no_data():
    with pytest.raises(ValueError, match="nothing"):
        fit_cost([], [], [], [])


@given(st.lists(st.tuples(st.floats(0.01, 5.0), st.integers(1, 50)), min_size=1, max_size=20))
def test_rising_is_the_nearest_that_rises(points: list[tuple[float, int]]):
    given_points = [(float(x + 1), y, weight) for x, (y, weight) in enumerate(points)]
    found = rising(given_points)
    assert [y for _, y in found] == sorted(y for _, y in found)
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    total = sum(weight for _, weight in points)
    mean = sum(y * weight for y, weight in points) / total
    assert min(y for _, y in found) <= mean + 1e-9 and max(y for _, y in found) >= mean - 1e-9


def test_rising_joins_what_falls_by_weight():
    assert rising([(1.0, 3.0, 1), (2.0, 1.0, 3), (4.0, 5.0, 2)]) == [(1.75, 1.5), (4.0, 5.0)]
