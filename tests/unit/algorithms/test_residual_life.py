"""The estimate of what cancelled responses would have cost: by hand, and against a known distribution."""

from __future__ import annotations

import numpy as np
import pytest

from darts_async.algorithms.residual_life import ResidualLife, mean_residual_life


def counts(cap: int, *lengths: int) -> np.ndarray:
    return np.bincount(np.array(lengths, dtype=np.int64), minlength=cap + 1).astype(np.int64)


def test_without_censoring_it_is_the_mean_excess() -> None:
    expected = mean_residual_life(counts(8, 2, 4, 8), counts(8))
    # Above 0: (2 + 4 + 8) / 3. Above 2: ((4-2) + (8-2)) / 2. Above 4, 5: 8 - c. At the cap: nothing.
    assert expected[[0, 2, 3, 4, 5, 8]] == pytest.approx([14 / 3, 4, 3, 4, 3, 0])


def test_kaplan_meier_by_hand() -> None:
    # Finished at 2, 4, 6; cut at 3. S: 3/4 from 2, times 1/2 from 4 on (2 at risk), 0 from 6.
    expected = mean_residual_life(counts(10, 2, 4, 6), counts(10, 3))
    # Above 3: S(3)=3/4, S(4)=S(5)=3/8, so (3/4 + 3/8 + 3/8) / (3/4) = 2.
    assert expected[3] == pytest.approx(2.0)
    # From 0: 1 + 1 + 3/4 + 3/4 + 3/8 + 3/8.
    assert expected[0] == pytest.approx(4.25)


def test_ignoring_the_cut_ones_would_be_short() -> None:
    naive = mean_residual_life(counts(10, 2, 4, 6), counts(10))[0]
    assert mean_residual_life(counts(10, 2, 4, 6), counts(10, 3, 3, 3))[0] > naive


def test_beyond_what_was_ever_seen_one_token_is_claimed_and_nothing_at_the_cap() -> None:
    expected = mean_residual_life(counts(20, 5), counts(20, 9))
    assert expected[9:20] == pytest.approx(np.ones(11))
    assert expected[20] == 0


def test_never_more_than_what_is_left_to_the_cap() -> None:
    rng = np.random.default_rng(0)
    expected = mean_residual_life(rng.integers(0, 3, 65), rng.integers(0, 3, 65))
    assert (expected <= 64 - np.arange(65)).all()


def test_within_five_percent_of_the_truth_on_a_long_tailed_distribution() -> None:
    """Lengths log-normal, cut at a random moment that does not depend on them, cap 512; 20,000 responses."""
    rng = np.random.default_rng(1)
    cap = 512
    lengths = np.clip(np.ceil(rng.lognormal(4.0, 0.8, 20_000)).astype(int), 1, cap)
    cuts = rng.integers(1, 400, lengths.size)
    life = ResidualLife(cap)
    truth = 0
    for length, cut in zip(lengths.tolist(), cuts.tolist(), strict=True):
        if length > cut:
            life.cancelled(cut)
            truth += length - cut
        else:
            life.finished(length)
    assert life.tokens_saved() == pytest.approx(truth, rel=0.05)


def test_nothing_cancelled_nothing_saved() -> None:
    life = ResidualLife(16)
    life.finished(3)
    assert life.tokens_saved() == 0.0
    life.cancelled(40)  # counts as the cap: nothing left to save
    assert life.tokens_saved() == 0.0
