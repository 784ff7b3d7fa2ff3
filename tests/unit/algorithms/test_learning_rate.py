"""Learning rates by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.learning_rate import Schedule, learning_rate


def _rates(schedule: Schedule, *, warmup_steps: int, steps: int, min_ratio: float = 0.0) -> list[float]:
    return [
        learning_rate(step, peak=8.0, schedule=schedule, warmup_steps=warmup_steps, steps=steps, min_ratio=min_ratio)
        for step in range(steps)
    ]


def test_by_hand() -> None:
    assert _rates("constant", warmup_steps=0, steps=3) == [8, 8, 8]
    assert _rates("constant", warmup_steps=4, steps=6) == [2, 4, 6, 8, 8, 8]
    assert _rates("linear", warmup_steps=0, steps=4) == [8, 6, 4, 2]
    assert _rates("linear", warmup_steps=2, steps=6) == [4, 8, 8, 6, 4, 2]
    # from 8 to 2 in four equal steps of 1.5
    assert _rates("linear", warmup_steps=0, steps=4, min_ratio=0.25) == [8, 6.5, 5, 3.5]
    # cos 0, pi / 3, 2 pi / 3 are 1, 1/2, -1/2
    assert _rates("cosine", warmup_steps=0, steps=3) == pytest.approx([8, 6, 2])
    assert _rates("cosine", warmup_steps=1, steps=4, min_ratio=0.5) == pytest.approx([8, 8, 7, 5])


def test_beyond_the_end_and_all_warm_up() -> None:
    assert learning_rate(9, peak=8.0, schedule="linear", steps=4, min_ratio=0.25) == 2
    assert _rates("cosine", warmup_steps=8, steps=3) == [1, 2, 3]
    assert learning_rate(8, peak=8.0, schedule="linear", warmup_steps=8, steps=3, min_ratio=0.5) == 8


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup_steps=st.integers(0, 20),
    steps=st.integers(1, 60),
    min_ratio=st.floats(0, 1),
)
def test_rises_then_falls_within_bounds(schedule: Schedule, warmup_steps: int, steps: int, min_ratio: float) -> None:
    rates = _rates(schedule, warmup_steps=warmup_steps, steps=steps, min_ratio=min_ratio)
    rising, falling = rates[:warmup_steps], rates[warmup_steps:]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
    assert all(0 < rate <= 8 for rate in rates)
    assert all(rate >= 8 * min_ratio * (1 - 1e-12) for rate in falling)
    if falling:
        assert falling[0] == pytest.approx(8)
