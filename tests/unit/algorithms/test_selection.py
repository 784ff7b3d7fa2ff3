"""Rules, the short set and the survivor draw: hand-computed cases, then the certificate against brute force."""

from __future__ import annotations

import itertools
from hashlib import blake2b
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.first_set import FirstSet
from darts_async.algorithms.selection import RULES, Contender, Picks, pick, survivor_draw
from darts_async.algorithms.short_set import UNBOUNDED, ShortSet
from darts_async.config.schema import SelectionSection


def contender(index: int, length: int | None, *, capped: bool = False, draw: int = 0) -> Contender:
    key = None if length is None else (capped, length, index)
    return Contender(index=index, key=key, arrival=index, draw=draw)


def test_the_registry_has_the_rules_of_the_config() -> None:
    assert set(RULES) == set(get_args(SelectionSection.model_fields["rule"].annotation))


def test_the_draw_is_a_documented_hash_and_differs_by_seed_and_candidate() -> None:
    data = (7).to_bytes(8, "little") + (2050).to_bytes(8, "little")
    assert survivor_draw(7, 2050) == int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
    assert len({survivor_draw(seed, cand) for seed in range(20) for cand in range(20)}) == 400


def test_the_draw_is_uniform_enough_to_be_fair() -> None:
    # The smallest of 4 draws is each of the four candidates about a quarter of the time.
    wins = [0, 0, 0, 0]
    for group in range(4000):
        draws = [survivor_draw(1, group * 1024 + i) for i in range(4)]
        wins[draws.index(min(draws))] += 1
    assert all(900 < count < 1100 for count in wins)


class TestShortSet:
    def test_ties_go_to_the_smaller_index(self) -> None:
        short = ShortSet(1)
        for index in (0, 1, 2):
            short.add(index)
        short.finish((False, 5, 1))
        assert not short.settled
        # Candidate 2 with 4 tokens has at least 5: (5, 2) is above (5, 1). Candidate 0 with 4 is not.
        assert short.progress(2, 4)
        assert short.cleared == [2]
        assert not short.progress(0, 4)
        assert short.progress(0, 5)
        assert short.settled and short.limit_length == 5

    def test_an_unstarted_candidate_blocks_unless_the_limit_is_one_token(self) -> None:
        short = ShortSet(1)
        short.add(0)
        short.add(1)
        short.finish((False, 1, 0))
        assert short.settled
        short.add(2)
        assert short.settled

    def test_a_capped_member_is_beaten_by_anything_that_runs(self) -> None:
        short = ShortSet(1)
        short.add(0)
        short.add(1)
        short.finish((True, 8, 0))
        short.progress(1, 7)
        assert not short.settled
        short.finish((False, 8, 1))
        assert short.settled and short.limit_length == 8

    def test_progress_counts_only_forwards(self) -> None:
        short = ShortSet(1)
        short.add(0)
        short.add(1)
        short.progress(1, 9)
        assert not short.progress(1, 3)
        short.finish((False, 8, 0))
        assert short.settled

    def test_a_removed_member_raises_the_limit_and_blocks_again(self) -> None:
        short = ShortSet(1)
        for index in range(3):
            short.add(index)
        short.progress(2, 6)
        short.finish((False, 4, 0))
        short.finish((False, 9, 1))
        assert short.settled
        short.remove(0, (False, 4, 0))
        assert not short.settled and short.limit_length == 9
        assert short.progress(2, 9)

    def test_an_unbounded_set_waits_for_everyone(self) -> None:
        short = ShortSet(UNBOUNDED)
        short.add(0)
        short.add(1)
        short.finish((False, 1, 0))
        assert not short.settled and not short.full
        short.finish((False, 2, 1))
        assert short.settled

    def test_a_size_of_zero_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            ShortSet(0)


@st.composite
def half_known_groups(draw: st.DrawFn) -> tuple[int, list[tuple[bool, int] | None], list[int]]:
    size = draw(st.integers(1, 3))
    finals = draw(
        st.lists(st.one_of(st.none(), st.tuples(st.just(False), st.integers(1, 5))), min_size=size + 1, max_size=5)
    )
    tokens = [draw(st.integers(0, 4)) for _ in finals]
    return size, finals, tokens


@given(half_known_groups())
def test_settled_means_that_no_completion_changes_the_set(
    case: tuple[int, list[tuple[bool, int] | None], list[int]],
) -> None:
    """Brute force: every way the running candidates could end, up to beyond the longest finished one."""
    size, finals, tokens = case
    short = ShortSet(size)
    for index in range(len(finals)):
        short.add(index)
    for index, final in enumerate(finals):
        short.progress(index, tokens[index])
        if final is not None:
            short.finish((*final, index))
    ends = [
        [(*final, index)]
        if final is not None
        else [(False, length, index) for length in range(tokens[index] + 1, 8)] + [(True, 8, index)]
        for index, final in enumerate(finals)
    ]
    sets = {frozenset(key[2] for key in sorted(combination)[:size]) for combination in itertools.product(*ends)}
    assert short.settled == (len(sets) == 1)


@given(half_known_groups(), st.sets(st.integers(0, 4)))
def test_min_outside_is_the_minimum_over_all_completions(
    case: tuple[int, list[tuple[bool, int] | None], list[int]], chosen: set[int]
) -> None:
    size, finals, tokens = case
    short = ShortSet(size)
    for index, final in enumerate(finals):
        short.add(index)
        short.progress(index, tokens[index])
        if final is not None:
            short.finish((*final, index))
    members = chosen & set(range(len(finals)))
    ends = [
        [(*final, index)] if final is not None else [(False, length, index) for length in range(tokens[index] + 1, 12)]
        for index, final in enumerate(finals)
    ]
    fewest = min(
        len(members - {key[2] for key in sorted(combination)[:size]}) for combination in itertools.product(*ends)
    )
    assert short.min_outside(members) == (fewest if short.full else 0)


class TestFirstSet:
    def test_settles_with_the_nth_finisher_and_clears_the_rest(self) -> None:
        first = FirstSet(2)
        for index in range(4):
            first.add(index)
        first.progress(3, 40)
        first.finish((False, 90, 1))
        assert not first.settled and first.cleared == [] and first.min_outside({0, 2}) == 0
        first.finish((True, 99, 0))
        assert first.settled and first.cleared == [2, 3]
        assert (first.exceeds(2), first.exceeds(3)) == (0, 40)
        assert first.min_outside({0, 2}) == 1

    def test_a_finisher_that_fails_makes_room_for_the_next(self) -> None:
        first = FirstSet(1)
        first.add(0)
        first.add(1)
        first.finish((False, 9, 0))
        first.remove(0, (False, 9, 0))
        assert not first.settled
        first.remove(1)
        assert first.settled and first.cleared == []

    def test_a_size_of_zero_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            FirstSet(0)


class TestPick:
    def test_shortest_keeps_the_n_smallest_keys_capped_last(self) -> None:
        group = [contender(0, 9), contender(1, 3), contender(2, 3, capped=True), contender(3, 7), contender(4, 9)]
        assert pick(RULES["shortest"], 3, 1, group).indices == (0, 1, 3)
        assert pick(RULES["shortest"], 5, 1, group).indices == (0, 1, 2, 3, 4)

    def test_survivor_draws_among_the_others_running_or_not(self) -> None:
        group = [
            contender(0, 2, draw=1),
            contender(1, 3, draw=9),
            contender(2, 50, draw=5),
            contender(3, None, draw=4),
            contender(4, None, draw=6),
        ]
        chosen = pick(RULES["survivor"], 3, 1, group)
        assert chosen == Picks(short=(0, 1), long=(3,))

    def test_a_capped_response_is_no_long_end_pick_while_valid_ones_are_there(self) -> None:
        group = [contender(0, 2), contender(1, 8, capped=True, draw=1), contender(2, None, draw=2)]
        assert pick(RULES["survivor"], 2, 1, group).long == (2,)
        assert pick(RULES["survivor"], 3, 2, group).long == (2, 1)

    def test_a_survivor_that_was_capped_gives_way_to_the_next_draw_that_finished(self) -> None:
        before = Picks(short=(0,), long=(1,))
        group = [
            contender(0, 2),
            contender(1, 8, capped=True, draw=1),
            contender(2, 6, draw=7),
            contender(3, 5, draw=8),
        ]
        assert pick(RULES["survivor"], 2, 1, group, before) == Picks(short=(0,), long=(2,))

    def test_a_lost_short_pick_is_replaced_by_the_next_shortest_and_survivors_stay(self) -> None:
        before = Picks(short=(0, 1), long=(3,))
        group = [contender(1, 3), contender(2, 6, draw=0), contender(3, None, draw=5), contender(4, 9, draw=0)]
        assert pick(RULES["survivor"], 3, 1, group, before) == Picks(short=(1, 2), long=(3,))

    def test_all_keeps_everything(self) -> None:
        group = [contender(0, 2), contender(1, 8, capped=True)]
        assert pick(RULES["all"], 2, 1, group).indices == (0, 1)

    def test_first_finished_goes_by_arrival_alone(self) -> None:
        group = [
            Contender(0, (False, 2, 0), arrival=4, draw=0),
            Contender(1, (True, 9, 1), arrival=1, draw=0),
            Contender(2, (False, 7, 2), arrival=2, draw=0),
        ]
        assert pick(RULES["first_finished"], 2, 1, group).indices == (1, 2)

    def test_dual_end_takes_the_longest_valid_ones(self) -> None:
        group = [contender(0, 2), contender(1, 8, capped=True), contender(2, 3), contender(3, 7), contender(4, 5)]
        assert pick(RULES["dual_end"], 3, 1, group) == Picks(short=(0, 2), long=(3,))
        assert pick(RULES["dual_end"], 3, 2, group) == Picks(short=(0,), long=(3, 4))
        assert pick(RULES["dual_end"], 3, 0, group) == Picks(short=(0, 2, 4))
        # Five are wanted and four are valid: only now the capped one comes in.
        assert pick(RULES["dual_end"], 5, 2, group).indices == (0, 1, 2, 3, 4)
        assert pick(RULES["dual_end"], 4, 2, group).indices == (0, 2, 3, 4)

    def test_dual_end_breaks_ties_at_the_long_end_by_the_larger_index(self) -> None:
        group = [contender(0, 2), contender(1, 7), contender(2, 7)]
        assert pick(RULES["dual_end"], 2, 1, group).long == (2,)

    @pytest.mark.parametrize("rule", ["survivor", "dual_end"])
    @pytest.mark.parametrize("keep_longest", [-1, 4, 5])
    def test_two_ends_need_a_short_end(self, rule: str, keep_longest: int) -> None:
        with pytest.raises(ValueError, match="keep_longest"):
            pick(RULES[rule], 4, keep_longest, [])
