"""The chain arithmetic task: its problems, its splits, its verifier."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darts_async.errors import ConfigError
from darts_async.tasks import load_task
from darts_async.tasks.chain_arithmetic import Chain, extract_answer, is_held_out, random_chain

TASK = load_task("chain_arithmetic", {})
PROMPT = TASK.train_prompts()[0]

totals = (
    st.lists(st.integers(0, 9), min_size=2, max_size=8)
    .filter(lambda t: all(a != b for a, b in itertools.pairwise(t)))
    .map(tuple)
)


def test_a_problem_by_hand():
    chain = Chain((4, 7, 2, 9))
    assert chain.content == "a4b+3c-5d+7"
    assert chain.steps == (3, -5, 7)
    assert chain.answer == "9"


@given(totals)
def test_problems_are_read_back_from_their_text(running):
    chain = Chain(running)
    assert Chain.parse(chain.content) == chain


@pytest.mark.parametrize("text", ["", "a4", "a4b+0", "a4c+3", "a4b+9", "a0b-1", "a4b+3\n", "4+3", "a\u0664b+3"])
def test_other_texts_are_not_problems(text):
    with pytest.raises(ValueError):  # noqa: PT011
        Chain.parse(text)


def test_defaults_are_balanced_over_the_difficulties():
    assert len(TASK.train_prompts()) == 64
    assert len(TASK.held_out_prompts()) == 128
    for prompts in (TASK.train_prompts(), TASK.held_out_prompts()):
        counts = Counter(prompt.stratum for prompt in prompts)
        assert sorted(counts) == [f"n{n}" for n in range(2, 9)]
        assert max(counts.values()) - min(counts.values()) <= 1


def test_ids_and_order_do_not_change_between_releases():
    ids = [prompt.prompt_id for prompt in TASK.train_prompts()[:4]]
    assert ids == ["chain-a8b-2", "chain-a2b+6c-8", "chain-a5b+2c-7d+9", "chain-a7b+1c-1d-2e-5"]
    assert TASK.held_out_prompts()[0].prompt_id == "chain-a2b-2"


@settings(max_examples=30, deadline=None)  # the first one lists all problems
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_no_two_seeds_mix_the_splits(seed, other):
    one = load_task("chain_arithmetic", {"seed": seed, "train_prompts": 21, "held_out_prompts": 21, "max_operands": 5})
    two = load_task("chain_arithmetic", {"seed": other, "train_prompts": 21, "held_out_prompts": 21, "max_operands": 5})
    train = [p.prompt_id for p in one.train_prompts()]
    assert len(set(train)) == 21
    assert not {p.prompt_id for p in two.held_out_prompts()} & set(train)
    again = load_task("chain_arithmetic", {"seed": seed, "train_prompts": 21, "max_operands": 5})
    assert [p.prompt_id for p in again.train_prompts()] == train


def test_a_larger_set_contains_the_smaller_one():
    larger = load_task("chain_arithmetic", {"train_prompts": 128})
    assert larger.train_prompts()[:64] == TASK.train_prompts()


def test_a_difficulty_that_runs_dry_leaves_its_turn_to_the_others():
    large = load_task("chain_arithmetic", {"train_prompts": 700})
    counts = Counter(prompt.stratum for prompt in large.train_prompts())
    assert counts["n2"] < 90 < counts["n8"]
    assert counts.total() == 700


@given(st.integers(0, 1000), st.integers(2, 8))
def test_demonstrations_are_never_held_out_problems(seed, operands):
    assert not is_held_out(random_chain(random.Random(seed), operands, "train"))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("a4\nb+3=7\n####7", "7"),
        ("####3\nwait\n#### 7", "7"),
        ("####1 2 3", "3"),
        ("#### the total is 07.", "7"),
        ("####-0", "0"),
        ("####-7", "-7"),
        ("####7.5", "7.5"),
        ("####007.5", "7.5"),
        ("####+.7", None),
        ("####x7", None),
        ("####7x", None),
        ("####", None),
        ("###7", None),
        ("7", None),
        ("", None),
        ("####\u0667", None),
        ("####" + "0" * 10_000 + "7", "7"),
        ("####" + "1" * 10_000, "1" * 10_000),
    ],
)
def test_answers_are_read_exactly(response, answer):
    assert extract_answer(response) == answer


@settings(deadline=None)  # the long examples take what they take on a busy machine
@given(st.text())
@example("####" + "-" * 5000 + "." * 5000)
@example("####" + "1." * 5000 + "a")
@example("####\x00\ud800")
def test_any_response_is_scored_zero_or_one(response):
    assert TASK.reward(PROMPT, response) in {0.0, 1.0}
    assert TASK.reward(PROMPT, "####" + response) in {0.0, 1.0}


@given(totals, st.text())
def test_exactly_the_total_is_right(running, before):
    chain = Chain(running)
    prompt = type(PROMPT)(prompt_id="x", stratum="n2", content=chain.content, answer=chain.answer)
    assert TASK.reward(prompt, f"{before}####{chain.answer}") == 1.0
    for other in range(10):
        if str(other) != chain.answer:
            assert TASK.reward(prompt, f"{before}####{other}") == 0.0


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"train_prompt": 3}, "task.params.train_prompt"),
        ({"train_prompts": 0}, "task.params.train_prompts"),
        ({"train_prompts": "64"}, "task.params.train_prompts"),
        ({"train_prompts": 64.0}, "task.params.train_prompts"),
        ({"held_out_prompts": 4097}, "task.params.held_out_prompts"),
        ({"seed": True}, "task.params.seed"),
        ({"max_operands": 9}, "task.params.max_operands"),
        ({"min_operands": 4, "max_operands": 3}, "task.params.min_operands"),
        ({"max_operands": 2}, "task.params.held_out_prompts"),
    ],
)
def test_bad_parameters_name_their_key(params, key):
    with pytest.raises(ConfigError) as caught:
        load_task("chain_arithmetic", params)
    assert caught.value.key == key


def test_an_unknown_task_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean 'chain_arithmetic'") as caught:
        load_task("chain_arithmetics", {})
    assert caught.value.key == "task.name"
