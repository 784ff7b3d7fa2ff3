"""Differences of log-probs by hand; causes planted into a small distribution of our own."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.parity import (
    FirstStep,
    ScoredResponse,
    TemperatureFit,
    compare,
    fit_temperature,
    likely_cause,
    precision_of,
)
from darts_async.config import Config

LIMIT = 1e-4


def _response(engine: list[float], learner: list[float], stopped: bool = True) -> ScoredResponse:
    return ScoredResponse(np.array(engine, np.float32), np.array(learner, np.float32), stopped)


def test_figures_by_hand():
    parity = compare(
        [
            _response([-1.0, -2.0, -3.0, -4.0], [-1.5, -2.0, -3.0, -3.0]),
            _response([-1.0, -1.0], [-1.0, -3.0], stopped=False),
        ]
    )
    assert (parity.tokens, parity.responses) == (6, 2)
    assert parity.mean == pytest.approx((0.5 + 1 + 2) / 6)
    assert parity.max == 2.0
    # (r - 1) - log r at log r = -0.5, 1, -2 and 0 elsewhere
    by_hand = (math.exp(-0.5) - 1 + 0.5) + (math.e - 1 - 1) + (math.exp(-2) - 1 + 2)
    assert parity.k3 == pytest.approx(by_hand / 6)
    # Quarters of four tokens are one each; two tokens are the first and the third.
    assert parity.quarters == pytest.approx((0.25, 0, 1.0, 1.0))
    assert parity.first == 0.25
    assert parity.last == 1.0  # the capped response has no EOS
    assert parity.without_first == pytest.approx(3 / 4)
    assert parity.without_last == pytest.approx(2.5 / 5)
    assert parity.within(0.6) and not parity.within(0.58)


def test_no_tokens_and_nan_are_never_within():
    nothing = compare([])
    assert nothing.tokens == 0 and math.isnan(nothing.mean) and not nothing.within(1e9)
    assert "no token" in likely_cause(nothing, LIMIT, 1.0, None)
    broken = compare([_response([-1.0, math.nan], [-1.0, -1.0])])
    assert not broken.within(1e9)
    assert "not a finite number" in likely_cause(broken, LIMIT, 1.0, None)


def test_arrays_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="2 log-probs of the engine beside 1"):
        compare([_response([-1, -1], [-1])])


@given(st.lists(st.lists(st.floats(-20, 0, width=32), min_size=1, max_size=9), min_size=1, max_size=5))
def test_equal_log_probs_have_no_difference_and_k3_is_never_negative(logprobs: list[list[float]]):
    same = compare([_response(values, values) for values in logprobs])
    assert (same.mean, same.max, same.k3) == (0, 0, 0)
    other = compare([_response(values, [value / 2 for value in values]) for values in logprobs])
    assert other.k3 >= 0
    # Means over the parts give the whole back.
    parts = other.first * other.responses + (
        other.without_first * (other.tokens - other.responses) if other.tokens > other.responses else 0
    )
    assert parts == pytest.approx(other.mean * other.tokens)


class _Softmax:
    """Tokens drawn from a softmax over random logits, and their log-probs at any temperature."""

    def __init__(self, seed: int, tokens: int = 400, vocab: int = 32, spread: float = 2.0) -> None:
        self.chance = np.random.default_rng(seed)
        self.logits = self.chance.normal(0, spread, (tokens, vocab))
        self.chosen = np.array([self.chance.choice(vocab, p=np.exp(row)) for row in self._logs(1.0)])

    def _logs(self, temperature: float) -> np.ndarray:
        scaled = self.logits / temperature
        return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))

    def at(self, temperature: float) -> np.ndarray:
        return self._logs(temperature)[np.arange(self.chosen.size), self.chosen]

    def disturbed(self) -> np.ndarray:
        other = _Softmax.__new__(_Softmax)
        other.chosen, other.logits = self.chosen, self.logits + self.chance.normal(0, 0.5, self.logits.shape)
        return other.at(1.0)


def _cut(values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, 10)


def _judged(engine: np.ndarray, learner: np.ndarray, fit: TemperatureFit | None, temperature: float = 1.0) -> str:
    parity = compare([ScoredResponse(a, b, True) for a, b in zip(_cut(engine), _cut(learner), strict=True)])
    assert not parity.within(LIMIT)
    return likely_cause(parity, LIMIT, temperature, fit)


@pytest.mark.parametrize(("engine", "learner"), [(0.7, 1.0), (1.0, 0.7), (1.02, 1.0), (3.0, 1.0), (0.5, 0.6)])
def test_the_temperature_of_the_engine_is_found(engine: float, learner: float):
    model = _Softmax(seed=3)
    fit = fit_temperature(model.at(engine), model.at, learner)
    assert fit.temperature == pytest.approx(engine, rel=2e-3)
    assert fit.mean < 5e-3
    cause = _judged(model.at(engine), model.at(learner), fit, learner)
    assert cause.startswith("temperature") and f"sampling.temperature = {learner:g}" in cause
    assert ("logprobs_mode" in cause) == (engine == 1.0)


def test_other_weights_are_not_taken_for_a_temperature():
    model = _Softmax(seed=4)
    engine = model.disturbed()
    fit = fit_temperature(engine, model.at, 1.0)
    assert fit.mean > 0.1
    assert "other weights" in _judged(engine, model.at(1.0), fit)


def test_causes_by_position():
    learner = _Softmax(seed=5).at(1.0)
    place = np.arange(400) % 40
    assert "only the last token (EOS)" in _judged(learner - (place == 39), learner, None)
    assert "only the first token" in _judged(learner - (place == 0), learner, None)
    assert "grows along the response" in _judged(learner - 0.01 * place**3 / 40, learner, None)
    assert "precision" in _judged(learner - 2e-3, learner, None)


def test_the_first_step_of_a_run_is_judged_once():
    fine = FirstStep(0.1)
    fine.add(tokens=40, diff_sum=4.0, diff_max=3)
    fine.add(tokens=60, diff_sum=5.9, diff_max=1)
    assert fine.mismatch() is None
    fine.add(tokens=1, diff_sum=1e9, diff_max=1e9)  # a later step, after an update
    assert fine.mismatch() is None

    gross = FirstStep(0.1)
    gross.add(tokens=60, diff_sum=30.0, diff_max=4.5)
    gross.add(tokens=40, diff_sum=1.0, diff_max=1)
    text = gross.mismatch()
    assert text is not None
    for part in ("100 tokens", "0.31 in the mean", "largest 4.5", "learner.max_parity_diff = 0.1"):
        assert part in text
    assert "darts-async doctor" in text


@pytest.mark.parametrize(
    ("limit", "tokens", "total", "stops"),
    [(None, 5, 99, 0), (0.1, 0, 0, 0), (0.1, 5, math.nan, 0), (0.1, 5, math.inf, 1)],
)
def test_what_is_not_judged(limit: float | None, tokens: int, total: float, stops: bool):
    step = FirstStep(limit)
    step.add(tokens=tokens, diff_sum=total, diff_max=total)
    assert (step.mismatch() is not None) == stops


def test_the_coarser_precision_counts():
    def of(**sections: dict[str, object]) -> str:
        return precision_of(Config.model_validate(sections))

    assert of() == "float32"
    assert of(model={"dtype": "bfloat16"}) == "bfloat16"
    assert of(learner={"mixed_precision": "bf16"}) == "bfloat16"
    assert of(generator={"engine_args": {"dtype": "float16"}}) == "bfloat16"
