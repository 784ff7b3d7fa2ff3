"""pass@1, its error and the lengths of a handful of samples, by hand."""

import math
import random

import pytest

from darts_async.algorithms.held_out import HeldOut, ScoredSample, by_stratum, summarise

SAMPLES = [
    ScoredSample("a", "easy", 1.0, 10),
    ScoredSample("a", "easy", 0.0, 20),
    ScoredSample("b", "easy", 1.0, 30),
    ScoredSample("b", "easy", None),  # failed: b has one sample left
    ScoredSample("c", "hard", 0.0, 100, capped=True),
    ScoredSample("c", "hard", 0.0, 40),
    ScoredSample("d", "hard", None),
]


def test_figures_by_hand():
    result = summarise(SAMPLES)
    assert result.pass_at_1 == pytest.approx(0.5)  # a .5, b 1, c 0: not the mean over samples, which is .4
    assert result.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert result.response_length == 40
    assert result.capped_share == 0.2
    assert (result.prompts, result.samples, result.failed) == (3, 5, 2)


def test_strata_and_order():
    shuffled = random.Random(0).sample(SAMPLES, len(SAMPLES))
    assert summarise(shuffled) == summarise(SAMPLES)
    strata = by_stratum(shuffled)
    assert list(strata) == ["easy", "hard"]
    assert strata["easy"].pass_at_1 == 0.75
    assert strata["hard"] == HeldOut(0.0, None, 70.0, 0.5, 1, 2, 1)  # one prompt has no spread


def test_nothing_to_measure():
    assert summarise([]) == HeldOut(None, None, None, None, 0, 0, 0)
    assert summarise([ScoredSample("a", "easy", None)]).failed == 1
