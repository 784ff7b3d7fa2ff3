"""Curves by token age: figures by hand, sums in any split, ages that did not occur."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.age_curves import MAX_AGE, AgeCurves


def curves_of(tokens: list[tuple[int, float, float, float]]) -> AgeCurves:
    """Tokens as (age, policy, behaviour, advantage)."""
    curves = AgeCurves()
    ages, policy, behaviour, advantages = (np.array(column) for column in zip(*tokens, strict=True))
    curves.add(ages.astype(np.int64), policy.astype(np.float32), behaviour, advantages)
    return curves


def test_figures_by_hand():
    tokens = [(0, -1.0, -1.0, 0.5), (2, math.log(0.5), math.log(0.25), 1.0), (2, math.log(0.2), math.log(0.4), -2.0)]
    assert curves_of(tokens).metrics() == pytest.approx(
        {
            "age/0/tokens": 1,
            "age/0/ratio": 1.0,
            "age/0/log_ratio_abs": 0.0,
            "age/0/kl": 0.0,
            "age/0/advantage": 0.5,
            "age/0/advantage_abs": 0.5,
            "age/2/tokens": 2,
            "age/2/ratio": (2 + 0.5) / 2,
            "age/2/log_ratio_abs": math.log(2),
            # k3 = r - 1 - log r: 1 - log 2 and -1/2 + log 2
            "age/2/kl": 0.25,
            "age/2/advantage": -0.5,
            "age/2/advantage_abs": 1.5,
        },
        rel=1e-6,
        abs=1e-7,
    )


def test_ages_beyond_the_last_bucket_share_it():
    metrics = curves_of([(MAX_AGE, -1, -1, 1.0), (60, -1, -1, 3.0)]).metrics()
    assert (metrics[f"age/{MAX_AGE}/tokens"], metrics[f"age/{MAX_AGE}/advantage"]) == (2, 2.0)
    assert {name.split("/")[1] for name in metrics} == {str(MAX_AGE)}


def test_no_tokens_no_figures():
    assert AgeCurves().metrics() == {}


def test_a_number_that_overflows_stays_in_its_bucket():
    metrics = curves_of([(0, 0.0, -1e4, 1.0), (1, -1.0, -1.0, 1.0)]).metrics()
    assert metrics["age/0/ratio"] == math.inf
    assert metrics["age/1/ratio"] == 1.0


logprobs = st.floats(-5, 0)


@given(
    st.lists(st.tuples(st.integers(0, 12), logprobs, logprobs, st.floats(-3, 3)), min_size=2, max_size=30), st.data()
)
def test_any_split_adds_up_to_the_whole(tokens, data):
    cut = data.draw(st.integers(1, len(tokens) - 1))
    whole, first, second = curves_of(tokens), curves_of(tokens[:cut]), curves_of(tokens[cut:])
    np.testing.assert_allclose(first.sums + second.sums, whole.sums, rtol=1e-9, atol=1e-9)
    assert sum(v for name, v in whole.metrics().items() if name.endswith("/tokens")) == len(tokens)
    assert all(v >= 0 for name, v in whole.metrics().items() if name.endswith("/kl"))
