"""Streaks of untrained groups, and how seldom one is told of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.starvation import Starvation


def test_a_streak_counts_from_three_and_ends_with_training() -> None:
    starvation = Starvation()
    for _ in range(2):
        starvation.ended("a", trained=False)
    assert (starvation.num_prompts, starvation.max) == (0, 2)
    starvation.ended("a", trained=False)
    starvation.ended("b", trained=False)
    assert (starvation.num_prompts, starvation.max) == (1, 3)
    starvation.ended("a", trained=True)
    assert (starvation.num_prompts, starvation.max, starvation.longest) == (0, 1, 3)


def test_one_warning_at_ten_and_then_at_twice_as_many_prompts() -> None:
    starvation = Starvation()
    told = [
        (prompt, streak)
        for prompt in range(8)
        for streak in range(1, 16)
        if starvation.ended(f"p{prompt}", trained=False) is not None
    ]
    assert told == [(0, 10), (1, 10), (3, 10), (7, 10)]


def test_the_warning_names_the_prompt() -> None:
    starvation = Starvation()
    texts = [starvation.ended("hard one", trained=False) for _ in range(10)]
    assert texts[:9] == [None] * 9
    assert texts[9] == "10 groups in a row of prompt 'hard one' ended untrained (1 prompts have 3 or more in a row)"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_streaks_are_what_a_recount_gives(events: list[tuple[str, bool]]) -> None:
    starvation = Starvation()
    streaks = dict.fromkeys("abc", 0)
    longest = 0
    for prompt, trained in events:
        starvation.ended(prompt, trained=trained)
        streaks[prompt] = 0 if trained else streaks[prompt] + 1
        longest = max(longest, streaks[prompt])
        assert starvation.max == max(streaks.values())
        assert starvation.num_prompts == sum(streak >= 3 for streak in streaks.values())
    assert starvation.longest == longest
