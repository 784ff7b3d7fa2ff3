"""Built-in reward functions by hand-computed cases; none raises, whatever a policy writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.config.choices import REWARDS
from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt, Response
from darts_async.tasks.rewards import BUILT_IN, load_builtin

NEEDED: dict[str, dict[str, Any]] = {"format": {"pattern": "a+b"}, "length": {"target": 2, "limit": 6}}


def score(name: str, answer: str, response: str, **params: Any) -> float:
    prompt = Prompt(prompt_id="p", stratum="s", content="?", answer=answer)
    return load_builtin("key", name, {**NEEDED.get(name, {}), **params})(prompt, response)


def test_the_config_knows_the_names() -> None:
    assert tuple(sorted(BUILT_IN)) == REWARDS


@pytest.mark.parametrize(
    ("name", "answer", "response", "params", "expected"),
    [
        ("exact_match", "42", " 42\n", {}, 1),
        ("exact_match", "42", "it is 42", {}, 0),
        ("exact_match", "42", "so\n#### 42", {"marker": "####"}, 1),
        ("exact_match", "42", "42", {"marker": "####"}, 0),
        ("exact_match", "Yes", "<answer>no</answer> <answer> yes </answer>", {"tag": "answer", "ignore_case": True}, 1),
        ("exact_match", "yes", "<answer>yes", {"tag": "answer"}, 0),
        ("contains", "Paris", "I think paris.", {}, 1),
        ("contains", "Paris", "I think paris.", {"ignore_case": False}, 0),
        ("contains", "4", "it is 42", {}, 0),
        ("contains", "", "anything", {}, 0),
        ("number", "#### 1,234", "first 5, then 1234.0", {}, 1),
        ("number", "-3", "it is -3.", {}, 1),
        ("number", "3", "it is -3", {}, 0),
        ("number", "7", "#### 7 of 9", {"marker": "####"}, 0),
        ("number", "0.5", "+0.50", {}, 1),
        ("number", "7", "none", {}, 0),
        ("number", "1" * 5000, "00" + "1" * 5000, {}, 1),
        ("format", "", "xaab", {}, 1),
        ("format", "", "xaab", {"match": "whole"}, 0),
        ("format", "", "a\nb", {"pattern": "a.b", "match": "whole"}, 1),
        ("think_format", "", "<think>so\n</think> 4", {}, 1),
        ("think_format", "", "<think>so</think>  ", {}, 0),
        ("think_format", "", "<think>a<think>b</think>4", {}, 0),
        ("think_format", "", "<think>a</think>4</think>", {}, 0),
        ("think_format", "", "so</think>4", {"prefilled": True}, 1),
        ("length", "", Response("x", 2), {}, 1),
        ("length", "", Response("x", 5), {}, 0.25),
        ("length", "", Response("x", 9), {}, 0),
        ("repetition", "", "a b c d", {"words": 2}, 0),
        ("repetition", "", "a b a b a", {"words": 2}, -0.5),
        ("repetition", "", "a", {"words": 2}, 0),
    ],
)
def test_values(name: str, answer: str, response: str, params: dict[str, Any], expected: float) -> None:
    assert score(name, answer, response, **params) == expected


def test_maths_compares_values() -> None:
    for answer, response, expected in (
        ("1/2", "so \\boxed{\\frac{1}{2}}", 1),
        ("0.5", "the answer is $\\frac{1}{2}$", 1),
        ("x^2+1", "\\boxed{1+x^2}", 1),
        ("(1,2)", "\\boxed{(2,1)}", 0),
        ("$42$", "first 41, then 42", 1),
        ("42", "41", 0),
        ("42", "", 0),
        ("42", "\\boxed{" * 50 + "\ud800", 0),
        ("\\frac{3}{4}", "0.75", 1),
    ):
        assert score("maths", answer, response) == expected, (answer, response)


@given(st.text(max_size=60), st.text(max_size=10), st.sampled_from(sorted(set(BUILT_IN) - {"maths"})))
def test_nothing_makes_one_raise(response: str, answer: str, name: str) -> None:
    assert -1.0 <= score(name, answer, response) <= 1.0


@pytest.mark.parametrize(
    ("name", "params", "key"),
    [
        ("exactmatch", {}, "key"),
        ("format", {}, "key.pattern"),
        ("format", {"pattern": "("}, "reward.functions.params.pattern"),
        ("length", {"target": 5, "limit": 5}, "reward.functions.params.limit"),
        ("repetition", {"words": 0}, "reward.functions.params.words"),
        ("exact_match", {"marker": 3}, "key.marker"),
        ("exact_match", {"market": "x"}, "key.market"),
    ],
)
def test_parameters_that_are_refused(name: str, params: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_builtin("key", name, params)
    assert caught.value.key == key
