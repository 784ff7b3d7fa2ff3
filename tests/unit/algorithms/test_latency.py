"""The latency curve: monotone, robust, bounded; and the probe that feeds it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.latency import WINDOW, LatencyCurve, isotonic
from darts_async.algorithms.latency_probe import MAX_PENDING, LatencyProbe


def test_pool_adjacent_violators_by_hand():
    assert isotonic([1, 3, 2, 4], [1, 1, 1, 1]).tolist() == [1, 2.5, 2.5, 4]
    assert isotonic([3, 1], [1, 3]).tolist() == [1.5, 1.5]
    assert isotonic([], []).size == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 10)), min_size=1, max_size=12))
def test_pav_is_monotone_and_its_residuals_say_it_is_the_projection(points: list[tuple[float, float]]):
    values, weights = (np.array(column) for column in zip(*points, strict=True))
    fitted = isotonic(values, weights)
    assert np.all(np.diff(fitted) >= 0)
    residual = weights * (values - fitted)
    # The projection on a convex cone: the residual is orthogonal to the fit, and no step up has a positive product.
    assert float(residual @ fitted) == pytest.approx(0, abs=1e-6)
    assert residual.sum() == pytest.approx(0, abs=1e-6)
    assert np.all(np.cumsum(residual[::-1])[::-1] <= 1e-6)


def _curve(function, concurrency, seed=0, stalls=0.1) -> LatencyCurve:
    rng = np.random.default_rng(seed)
    curve = LatencyCurve()
    for running in concurrency:
        seconds = function(running) * rng.lognormal(0, 0.05, 40)
        seconds[rng.random(40) < stalls] *= 50
        curve.add([running] * 40, seconds.tolist())
    return curve


@pytest.mark.parametrize("function", [lambda b: 1e-3 * b, lambda b: 1e-2 + 0 * b, lambda b: 8e-3 + 4e-4 * b])
def test_noise_and_stalls_leave_the_curve(function):
    fit = _curve(function, (1, 2, 4, 8, 16, 32, 64)).fit()
    inside = np.array([1, 3, 8, 20, 48, 64.0])
    assert fit(inside) == pytest.approx(function(inside), rel=0.1)
    assert fit(128.0) == pytest.approx(function(128.0), rel=0.15)  # extrapolated
    assert np.all(np.diff(fit(np.arange(1, 300.0))) >= 0)


def test_outside_what_was_measured():
    curve = LatencyCurve()
    assert curve.fit() is None
    curve.add([8], [0.02])
    fit = curve.fit()
    assert fit([1, 8, 16]).tolist() == pytest.approx([0.02, 0.02, 0.04])  # one point: proportional at worst


def test_old_samples_are_forgotten_and_nonsense_is_ignored():
    curve = LatencyCurve()
    curve.add([4] * WINDOW, [1.0] * WINDOW)
    curve.add([4] * WINDOW, [0.01] * WINDOW)
    curve.add([0, 4, 4, 4], [0.01, float("nan"), float("inf"), -1.0])
    assert curve.num_samples == 2 * WINDOW
    assert float(curve.fit()(4.0)) == pytest.approx(0.01)
    assert len(curve._buckets[4]) == WINDOW


def test_memory_does_not_grow_with_concurrency():
    curve = LatencyCurve()
    curve.add(range(1, 65_537), [0.01] * 65_536)
    assert len(curve._buckets) <= 16 + 8 * 12
    assert sum(len(bucket) for bucket in curve._buckets.values()) <= WINDOW * len(curve._buckets)


def test_probe_by_hand():
    probe = LatencyProbe()
    probe.output(1, 4, 2, 10.0)  # the first output: prefill is in it
    probe.output(1, 4, 2, 10.4)
    probe.output(1, 4, 2, 11.2)
    probe.output(1, 4, 2, 11.8)
    probe.output(1, 2, 3, 12.0)
    probe.ended(1)
    probe.output(1, 4, 2, 99.0)  # the same id anew
    concurrency, seconds = probe.take()
    assert (concurrency.tolist(), concurrency.dtype, seconds.dtype) == ([2, 3], np.int32, np.float32)
    assert seconds.tolist() == pytest.approx([0.15, 0.1])  # the median of 0.1, 0.2, 0.15
    assert [array.size for array in probe.take()] == [0, 0]


def test_probe_skips_what_spans_a_swap_and_stays_bounded():
    probe = LatencyProbe()
    probe.output(1, 1, 1, 0.0)
    probe.interrupted()
    probe.output(1, 1, 1, 5.0)
    probe.interrupted()
    probe.output(1, 1, 1, 6.0)
    probe.output(1, 1, 1, 6.5)
    assert probe.take()[1].tolist() == [0.5]
    for tick in range(2 * MAX_PENDING):
        probe.output(1, 1, 1, 7.0 + tick)
    assert len(probe._running) == MAX_PENDING
