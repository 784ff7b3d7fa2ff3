"""Sums of a step: what adds, what is a maximum, and what is left out of the metrics."""

from __future__ import annotations

import dataclasses

from darts_async.engines.token_sums import TokenSums


def test_all_fields_are_numbers_that_add_or_are_maxima_by_name() -> None:
    names = [field.name for field in dataclasses.fields(TokenSums)]
    first = TokenSums(**{name: index + 1 for index, name in enumerate(names)})
    first += TokenSums(**dict.fromkeys(names, 100))
    for index, name in enumerate(names):
        assert getattr(first, name) == (100 if name.endswith("_max") else index + 101), name


def test_what_nothing_was_measured_for_is_left_out() -> None:
    metrics = TokenSums(loss=3.0, tokens=4, denominator=6.0, masked=1).metrics()
    assert metrics["learner/loss"] == 0.5 and metrics["learner/masked_fraction"] == 0.25
    for name in ("ess", "kl_reference", "entropy", "logprob_diff_mean", "logprob_diff_max"):
        assert f"learner/{name}" not in metrics
    some = TokenSums(tokens=4, weight=4.0, weight_square=8.0, entropy=3.0, entropy_tokens=2).metrics()
    assert some["learner/ess"] == 0.5 and some["learner/entropy"] == 1.5
