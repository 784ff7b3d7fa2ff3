"""One group: hand-computed stories, then properties over random arrival orders, speeds, failures and repeats."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from darts_async.algorithms.group import NOTHING, Decision, GroupState, Status
from darts_async.algorithms.selection import RULES, survivor_draw
from darts_async.algorithms.zero_variance import ZeroVariance
from darts_async.messages import candidate_id

GROUP_ID = 5
SEED = 11


def new_group(rule: str, num: int, size: int, longest: int = 1, **options: Any) -> GroupState:
    return GroupState(
        group_id=GROUP_ID,
        indices=range(num),
        rule=RULES[rule],
        group_size=size,
        keep_longest=longest,
        run_seed=SEED,
        **options,
    )


def draws(indices: range | list[int]) -> list[int]:
    """Indices in order of their draw."""
    return sorted(indices, key=lambda i: survivor_draw(SEED, candidate_id(GROUP_ID, i)))


def finish(group: GroupState, index: int, length: int, *, capped: bool = False, reward: float = 0.0) -> list[Decision]:
    return [group.on_finished(index, length, capped), group.on_reward(index, reward)]


class TestShortest:
    def test_cancels_at_the_progress_event_that_leaves_no_chance_be_the_set_certain_or_not(self) -> None:
        group = new_group("shortest", 5, 2)
        finish(group, 0, 10)
        finish(group, 1, 12)
        # It has at least 13 tokens in the end, and (13, 2) > (12, 1). Candidates 3 and 4 still block the set.
        assert group.on_progress(2, 12) == Decision(cancel=(2,), verdicts=((2, "cancelled_tail"),))
        assert finish(group, 4, 11)[0] is NOTHING
        assert group.on_progress(3, 11) == Decision(
            cancel=(3,),
            verdicts=((3, "cancelled_tail"), (0, "kept"), (1, "rejected"), (4, "kept")),
            complete=True,
            kept=(0, 4),
        )
        assert (group.candidate(2).exceeds, group.candidate(3).exceeds) == (12, 11)

    def test_cancels_before_the_rewards_are_in_and_completes_with_the_last_of_them(self) -> None:
        group = new_group("shortest", 3, 2)
        group.on_progress(2, 30)
        group.on_finished(0, 10, False)
        settled = group.on_finished(1, 20, False)
        assert settled == Decision(cancel=(2,), verdicts=((2, "cancelled_tail"),))
        assert group.on_reward(1, 1.0) is NOTHING
        assert group.on_reward(0, 0.0).kept == (0, 1)

    def test_finishing_first_is_no_merit(self) -> None:
        group = new_group("shortest", 3, 2)
        finish(group, 0, 50)
        finish(group, 1, 40)
        assert not group.settled  # candidate 2 may still be short
        decisions = finish(group, 2, 3)
        assert decisions[-1].kept == (1, 2)
        assert decisions[-1].verdicts == ((0, "rejected"), (1, "kept"), (2, "kept"))

    def test_a_cancelled_candidate_that_finishes_anyway_stays_cancelled(self) -> None:
        group = new_group("shortest", 3, 2)
        finish(group, 0, 1)
        assert finish(group, 1, 1)[0].cancel == (2,)
        assert group.on_finished(2, 1, False) is NOTHING
        assert group.on_failed(2) is NOTHING
        assert group.candidate(2).status is Status.CANCELLED and group.kept == (0, 1)

    def test_m_equal_to_n_keeps_all_and_cancels_nothing(self) -> None:
        group = new_group("shortest", 3, 3)
        decisions = [d for i, length in ((2, 9), (0, 4), (1, 100)) for d in finish(group, i, length)]
        assert all(not d.cancel for d in decisions)
        assert decisions[-1].kept == (0, 1, 2)

    def test_capped_ones_fill_a_group_that_has_too_few_valid_ones(self) -> None:
        group = new_group("shortest", 3, 2)
        finish(group, 0, 8, capped=True)
        finish(group, 1, 8, capped=True)
        assert not group.settled
        assert finish(group, 2, 8)[-1].kept == (0, 2)

    def test_all_decided_comes_before_the_rewards(self) -> None:
        group = new_group("shortest", 2, 2)
        group.on_finished(0, 1, False)
        assert not group.all_decided
        group.on_finished(1, 1, False)
        assert group.all_decided and not group.complete


class TestSurvivor:
    def test_the_survivor_is_drawn_and_waited_for(self) -> None:
        group = new_group("survivor", 5, 3)
        first, second, third, *short = draws(range(5))
        for index in short:
            finish(group, index, 10)
        # Two are surely not among the short ones: the one with the larger draw has lost, with the third still open.
        assert group.on_progress(third, 10) is NOTHING
        assert group.on_progress(second, 10).cancel == (third,)
        settled = group.on_progress(first, 10)
        assert settled.cancel == (second,) and not settled.complete
        assert finish(group, first, 200)[-1].kept == tuple(sorted((*short, first)))

    def test_one_of_two_has_to_stay_outside_and_either_would_be_drawn_first(self) -> None:
        first, second, third = draws([0, 1, 2])
        group = new_group("survivor", 3, 2)
        finish(group, first, 10)
        # `second` may still end below or above 10; whichever of the two is not the short one has the smaller draw.
        assert group.on_progress(third, 10).cancel == (third,)
        assert not group.settled
        assert finish(group, second, 4)[-1].kept == tuple(sorted((first, second)))

    def test_nobody_behind_a_short_pick_is_cancelled_for_it(self) -> None:
        first, second, third = draws([0, 1, 2])
        group = new_group("survivor", 3, 2)
        finish(group, first, 10)
        group.on_progress(third, 3)
        # `first` is the short one unless `third` is; `second`, cleared, is the survivor unless `first` is.
        assert group.on_progress(second, 10) is NOTHING
        assert group.on_progress(third, 10).cancel == (third,)
        assert finish(group, second, 40)[-1].kept == tuple(sorted((first, second)))

    def test_a_cancelled_one_is_not_there_when_its_survivor_fails_later(self) -> None:
        first, second, *short = draws(range(4))
        group = new_group("survivor", 4, 3)
        for index in short:
            finish(group, index, 10)
        assert group.on_progress(second, 10) is NOTHING
        assert group.on_progress(first, 10).cancel == (second,)
        decision = group.on_failed(first)  # settled: nothing is replaced any more, two are enough
        assert not decision.replace and decision.kept == tuple(sorted(short))

    def test_a_capped_survivor_gives_way_to_a_finished_valid_one(self) -> None:
        first, second, third = draws([2, 3, 4])
        group = new_group("survivor", 5, 3)
        finish(group, third, 50)
        group.on_progress(first, 10)
        group.on_progress(second, 10)
        finish(group, 0, 10)
        assert finish(group, 1, 10)[0].cancel == (second,)
        decision = group.on_finished(first, 64, True)
        assert decision.kept == tuple(sorted((0, 1, third)))
        assert (first, "rejected") in decision.verdicts

    def test_a_capped_survivor_stays_when_nothing_else_is_valid(self) -> None:
        group = new_group("survivor", 4, 3)
        first, second = draws([2, 3])
        finish(group, 0, 1)
        assert finish(group, 1, 1)[0].cancel == (second,)
        assert finish(group, first, 64, capped=True)[-1].kept == tuple(sorted((0, 1, first)))

    def test_keep_longest_zero_is_shortest(self) -> None:
        group = new_group("survivor", 3, 2, longest=0)
        finish(group, 0, 1)
        assert finish(group, 1, 1)[0].cancel == (2,)


class TestFirstFinished:
    def test_the_first_n_are_kept_whatever_their_lengths(self) -> None:
        group = new_group("first_finished", 4, 2)
        group.on_progress(3, 70)
        group.on_progress(3, 60)
        finish(group, 2, 90)
        decisions = finish(group, 0, 64, capped=True)
        assert decisions[0].cancel == (1, 3)
        assert decisions[1].kept == (0, 2)
        # No length decided about them: they are longer than what they had.
        assert (group.candidate(1).exceeds, group.candidate(3).exceeds) == (0, 70)


class TestDualEnd:
    def test_nothing_is_cancelled_until_everybody_is_decided(self) -> None:
        group = new_group("dual_end", 5, 3)
        for index, length in ((1, 4), (3, 9), (0, 5)):
            assert all(d is NOTHING for d in finish(group, index, length))
        assert group.on_progress(2, 40) is NOTHING
        finish(group, 2, 64, capped=True)
        decision = finish(group, 4, 30)[-1]
        assert decision.kept == (0, 1, 4) and not decision.cancel
        assert dict(decision.verdicts) == {0: "kept", 1: "kept", 4: "kept", 2: "rejected", 3: "rejected"}

    def test_keep_longest_zero_keeps_the_shortest_and_waits_all_the_same(self) -> None:
        group = new_group("dual_end", 3, 2, longest=0)
        finish(group, 0, 1)
        finish(group, 1, 1)
        assert group.on_progress(2, 500) is NOTHING
        assert finish(group, 2, 501)[0].kept == (0, 1)


class TestZeroVariance:
    def pool(self, how: ZeroVariance, rule: str = "dual_end", **options: bool) -> GroupState:
        """Lengths 1 to 6, capped at the end; two short ones and the longest are picked."""
        group = new_group(rule, 6, 3, zero_variance=how, **options)
        for index in range(5):
            group.on_finished(index, index + 1, False)
        group.on_finished(5, 6, True)
        return group

    def test_keep_trains_on_it(self) -> None:
        group = self.pool("keep")
        decision = [group.on_reward(i, 1.0) for i in (0, 1, 4)][-1]
        assert decision.kept == (0, 1, 4) and group.zero_variance and not group.rescued

    def test_drop_rejects_all_that_finished(self) -> None:
        group = self.pool("drop")
        decision = [group.on_reward(i, 1.0) for i in (0, 1, 4)][-1]
        assert decision.complete and decision.kept is None and group.kept == ()
        assert decision.rejected_reason == "zero_variance"
        assert decision.verdicts == tuple((i, "rejected") for i in range(6))

    def test_drop_keeps_a_group_with_a_signal(self) -> None:
        group = self.pool("drop")
        assert [group.on_reward(i, float(i)) for i in (0, 1, 4)][-1].kept == (0, 1, 4)
        assert not group.zero_variance

    def test_rescue_swaps_the_longest_short_pick_for_the_shortest_that_differs(self) -> None:
        group = self.pool("rescue")
        group.on_reward(5, 0.0)  # capped: never
        group.on_reward(3, 0.0)
        assert [group.on_reward(i, 1.0) for i in (0, 1, 4)][-1] is NOTHING  # candidate 2 is shorter than 3
        decision = group.on_reward(2, 1.0)
        assert decision.kept == (0, 3, 4) and group.rescued and group.zero_variance
        assert (1, "rejected") in decision.verdicts and (3, "kept") in decision.verdicts

    def test_rescue_waits_for_no_score_that_cannot_decide(self) -> None:
        group = self.pool("rescue")
        group.on_reward(2, 0.0)
        assert [group.on_reward(i, 1.0) for i in (0, 1, 4)][-1].kept == (0, 2, 4)

    def test_rescue_goes_on_without_a_score_that_failed(self) -> None:
        group = self.pool("rescue")
        for index in (0, 1, 4, 3):
            assert not group.on_reward(index, 1.0).complete
        decision = group.on_failed(2)
        assert decision.kept == (0, 1, 4) and not group.rescued and (2, "failed") in decision.verdicts

    def test_rescue_never_waits_for_running_ones(self) -> None:
        group = new_group("shortest", 4, 2, zero_variance="rescue")
        finish(group, 3, 30, reward=1.0)
        finish(group, 0, 5, reward=0.0)
        group.on_finished(1, 6, False)
        assert group.on_progress(2, 6).cancel == (2,)
        decision = group.on_reward(1, 0.0)
        assert decision.kept == (0, 3) and (1, "rejected") in decision.verdicts

    def test_rescue_with_nothing_to_spare_keeps(self) -> None:
        group = new_group("all", 2, 2, zero_variance="rescue")
        finish(group, 0, 5, reward=1.0)
        assert finish(group, 1, 5, reward=1.0)[-1].kept == (0, 1)

    def test_too_few_come_before_equal_rewards(self) -> None:
        group = new_group("shortest", 2, 2, zero_variance="drop")
        for index in (1, 2):
            group.on_failed(index)
        assert finish(group, 0, 5)[-1].rejected_reason == "1 of 2 candidates left"


class TestFailures:
    def test_a_failed_candidate_is_replaced_once_under_a_new_id(self) -> None:
        group = new_group("shortest", 2, 2)
        assert group.on_failed(1) == Decision(replace=((1, 2),), verdicts=((1, "failed"),))
        assert group.on_failed(2) == Decision(verdicts=((2, "failed"),))  # candidate 0 still runs
        assert group.on_finished(0, 5, False) is NOTHING
        rejected = group.on_reward(0, 1.0)
        assert rejected.complete and rejected.kept is None and rejected.verdicts == ((0, "rejected"),)
        assert rejected.rejected_reason == "1 of 2 candidates left"

    def test_trains_on_two_of_three_when_the_replacement_fails_too(self) -> None:
        group = new_group("shortest", 3, 3)
        group.on_failed(2)
        group.on_failed(3)
        finish(group, 0, 5)
        assert finish(group, 1, 6)[-1].kept == (0, 1)

    def test_a_failure_that_settles_a_full_set_needs_no_replacement(self) -> None:
        group = new_group("shortest", 3, 2)
        finish(group, 0, 5)
        finish(group, 1, 6)
        decision = group.on_failed(2)
        assert not decision.replace and decision.kept == (0, 1)

    def test_a_reward_failure_before_the_set_is_settled_is_replaced(self) -> None:
        group = new_group("shortest", 3, 2)
        group.on_finished(0, 5, False)
        assert group.on_reward(0, float("nan")).replace == ((0, 3),)
        finish(group, 1, 6)
        finish(group, 2, 7)
        assert not group.settled  # the replacement may be shorter
        decision = group.on_progress(3, 7)
        assert decision.cancel == (3,) and decision.kept == (1, 2)

    def test_a_reward_failure_after_it_falls_back_to_the_next_shortest_then_capped(self) -> None:
        group = new_group("shortest", 5, 2)
        finish(group, 3, 40)
        finish(group, 4, 64, capped=True)
        group.on_progress(2, 20)
        group.on_finished(0, 5, False)
        assert group.on_finished(1, 6, False).cancel == (2,)
        assert group.on_failed(0) == Decision(verdicts=((0, "failed"),))
        decision = group.on_failed(1)
        assert decision.kept == (3, 4) and not decision.replace

    def test_a_reward_failure_with_nothing_to_fall_back_on_trains_on_fewer(self) -> None:
        group = new_group("shortest", 4, 3)
        for index in (0, 1):
            finish(group, index, 1)
        assert group.on_finished(2, 1, False).cancel == (3,)
        assert group.on_reward(2, float("inf")).kept == (0, 1)

    def test_everything_fails(self) -> None:
        group = new_group("survivor", 3, 3)
        for index in range(5):
            assert not group.on_failed(index).complete
        assert group.on_failed(5).rejected_reason == "0 of 3 candidates left"

    def test_a_scored_candidate_cannot_fail_any_more(self) -> None:
        group = new_group("shortest", 3, 2)
        finish(group, 0, 5)
        assert group.on_failed(0) is NOTHING
        finish(group, 1, 6)
        assert group.on_progress(2, 6).kept == (0, 1)

    def test_an_evaluation_is_not_repaired(self) -> None:
        group = new_group("all", 2, 2, replace_failed=False)
        assert not group.on_failed(0).replace


class TestBaseline:
    def test_finished_waits_for_the_rewards_of_all_that_finished(self) -> None:
        group = new_group("shortest", 3, 2, wait_for_all_rewards=True)
        group.on_finished(2, 9, False)
        finish(group, 0, 1)
        assert not finish(group, 1, 1)[-1].complete
        assert group.on_reward(2, 1.0).kept == (0, 1)

    def test_selected_does_not(self) -> None:
        group = new_group("shortest", 3, 2)
        group.on_finished(2, 9, False)
        finish(group, 0, 1)
        assert finish(group, 1, 1)[-1].complete
        assert group.on_reward(2, float("nan")) is NOTHING


class TestCertain:
    @pytest.mark.parametrize("rule", sorted(RULES))
    def test_everybody_from_the_start_where_nobody_is_spare(self, rule: str) -> None:
        group = new_group(rule, 3, 3)
        assert group.certain == (0, 1, 2)
        finish(group, 1, 9)
        assert group.certain == (0, 2)
        assert group.on_failed(0).replace == ((0, 3),)
        assert group.certain == (2, 3)

    @pytest.mark.parametrize("rule", sorted(set(RULES) - {"all"}))
    def test_nobody_before_the_rule_has_decided_where_some_are_spare(self, rule: str) -> None:
        group = new_group(rule, 4, 3)
        for index in (1, 3):
            assert group.certain == ()
            finish(group, index, 9)
            group.on_progress(0, 4)

    def test_all_keeps_everybody_however_many(self) -> None:
        assert new_group("all", 5, 2).certain == (0, 1, 2, 3, 4)

    def test_a_survivor_once_the_short_end_is_settled(self) -> None:
        group = new_group("survivor", 5, 3)
        first, second, third, *short = draws(range(5))
        for index in short:
            finish(group, index, 10)
        for index in (third, second):
            group.on_progress(index, 10)
            assert group.certain == ()
        group.on_progress(first, 10)
        assert group.certain == (first,)
        finish(group, first, 30)
        assert group.complete and group.certain == ()

    def test_the_others_once_a_spare_one_has_failed_twice(self) -> None:
        group = new_group("shortest", 3, 2)
        group.on_failed(0)  # replaced by 3
        assert group.certain == ()
        group.on_failed(3)
        assert group.certain == (1, 2)


def test_all_waits_for_all() -> None:
    group = new_group("all", 2, 2)
    finish(group, 0, 1)
    assert not group.settled
    assert finish(group, 1, 900, capped=True)[-1].kept == (0, 1)


def test_unknown_candidates_and_repeated_indices_are_refused() -> None:
    group = new_group("all", 2, 2)
    with pytest.raises(KeyError):
        group.on_progress(2, 1)
    with pytest.raises(ValueError, match="twice"):
        GroupState(group_id=1, indices=[0, 0], rule=RULES["all"], group_size=2, keep_longest=0, run_seed=0)


# --- properties ---------------------------------------------------------------------------------------------------

CAP = 24


@dataclass
class World:
    """A generator that may be slow, late, reordered or broken, and what a group made of it."""

    finals: list[tuple[int, bool]]
    """Length and capped, per candidate; replacements take theirs from the end of the list."""
    group: GroupState
    rng: random.Random
    failures: set[int] = field(default_factory=set)
    bad_rewards: set[int] = field(default_factory=set)
    rewards: dict[int, float] = field(default_factory=dict)
    never_cancelled: bool = False
    """Cancels arrive too late: everything finishes anyway."""
    verdicts: list[tuple[int, str]] = field(default_factory=list)
    completions: int = 0
    kept: tuple[int, ...] | None = None
    certain: set[int] = field(default_factory=set)
    """Whoever was ever certain to be kept, while it ran."""

    def run(self) -> None:
        """Deliver all events in a random order that a set of engines could produce."""
        running = {c.index: 0 for c in self.group.candidates}
        self.certain.update(self.group.certain)
        late: list[tuple[int, int]] = []
        unscored: list[int] = []
        while running or unscored:
            if unscored and (not running or self.rng.random() < 0.3):
                index = unscored.pop(self.rng.randrange(len(unscored)))
                reward = float("nan") if index in self.bad_rewards else self.rewards.get(index, 1.0)
                self._take(self.group.on_reward(index, reward), running)
                continue
            index = self.rng.choice(list(running))
            length, capped = self.finals[index]
            tokens = min(length, running[index] + self.rng.choice([1, 1, 2, 5, 30]))
            if index in self.failures and tokens >= length // 2:
                del running[index]
                self._take(self.group.on_failed(index), running)
            elif tokens < length:
                running[index] = tokens
                late.append((index, tokens))
            else:
                del running[index]
                self._take(self.group.on_finished(index, length, capped), running)
                if self.group.candidate(index).status is Status.FINISHED:
                    unscored.append(index)
                if self.rng.random() < 0.2:
                    assert self.group.on_finished(index, length, capped) is NOTHING
            # Progress reports are delayed, reordered, and some are lost.
            while late and self.rng.random() < 0.6:
                which, count = late.pop(self.rng.randrange(len(late)))
                self._take(self.group.on_progress(which, count), running)

    def _take(self, decision: Decision, running: dict[int, int]) -> None:
        self.verdicts += decision.verdicts
        for index in decision.cancel:
            assert index in running
            if not self.never_cancelled and self.rng.random() < 0.7:
                del running[index]
        for _, new in decision.replace:
            running[new] = 0
        self.certain.update(self.group.certain)
        if decision.complete:
            self.completions += 1
            self.kept = decision.kept


@st.composite
def final_lengths(draw: st.DrawFn, rule: str = "shortest") -> tuple[int, int, list[tuple[int, bool]]]:
    size = draw(st.integers(2, 4))
    longest = draw(st.integers(0, size - 1)) if rule in {"survivor", "dual_end"} else 0
    num = draw(st.integers(size, 8))
    lengths = [draw(st.integers(1, CAP)) for _ in range(num)]
    capped = [length == CAP and draw(st.booleans()) for length in lengths]
    return size, longest, list(zip(lengths, capped, strict=True))


def shortest_of(finals: list[tuple[int, bool]], size: int) -> list[int]:
    return sorted(range(len(finals)), key=lambda i: (finals[i][1], finals[i][0], i))[:size]


@given(final_lengths(), st.randoms(use_true_random=False), st.booleans())
def test_shortest_keeps_what_an_oracle_of_all_lengths_keeps(
    case: tuple[int, int, list[tuple[int, bool]]], rng: random.Random, never_cancelled: bool
) -> None:
    size, _, finals = case
    world = World(finals, new_group("shortest", len(finals), size), rng, never_cancelled=never_cancelled)
    world.run()
    assert world.kept == tuple(sorted(shortest_of(finals, size)))


@given(final_lengths(rule="survivor"), st.randoms(use_true_random=False), st.booleans())
def test_survivor_keeps_what_an_oracle_of_all_lengths_keeps(
    case: tuple[int, int, list[tuple[int, bool]]], rng: random.Random, never_cancelled: bool
) -> None:
    size, longest, finals = case
    short = shortest_of(finals, size - longest)
    survivors = draws([i for i in range(len(finals)) if i not in short])[:longest]
    assume(not any(finals[i][1] for i in survivors))  # the fallback for capped survivors depends on arrival
    world = World(finals, new_group("survivor", len(finals), size, longest), rng, never_cancelled=never_cancelled)
    world.run()
    assert world.kept == tuple(sorted((*short, *survivors)))


@given(final_lengths(rule="dual_end"), st.randoms(use_true_random=False))
def test_dual_end_keeps_what_an_oracle_of_all_lengths_keeps(
    case: tuple[int, int, list[tuple[int, bool]]], rng: random.Random
) -> None:
    size, longest, finals = case
    short = shortest_of(finals, size - longest)
    rest = [i for i in range(len(finals)) if i not in short]
    # From the longest valid one downwards, then the capped ones.
    long = sorted(rest, key=lambda i: (finals[i][1], -finals[i][0], -i))[:longest]
    world = World(finals, new_group("dual_end", len(finals), size, longest), rng)
    world.run()
    assert world.kept == tuple(sorted((*short, *long)))
    assert all(verdict in {"kept", "rejected"} for _, verdict in world.verdicts)


@given(
    st.sampled_from(["all", "dual_end"]),
    final_lengths(rule="dual_end"),
    st.randoms(use_true_random=False),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=8, max_size=8),
)
def test_rescue_is_arrival_invariant_where_everything_is_waited_for(
    rule: str, case: tuple[int, int, list[tuple[int, bool]]], rng: random.Random, rewards: list[float]
) -> None:
    size, longest, finals = case
    worlds = [
        World(
            finals,
            new_group(rule, len(finals), size, longest, zero_variance="rescue"),
            order,
            rewards=dict(enumerate(rewards)),
        )
        for order in (rng, random.Random(7))
    ]
    for world in worlds:
        world.run()
    assert worlds[0].kept == worlds[1].kept is not None
    valid_rewards = {rewards[i] for i, (_, capped) in enumerate(finals) if not capped}
    kept_rewards = {rewards[i] for i in worlds[0].kept}
    assert len(kept_rewards) == 2 or len(valid_rewards | kept_rewards) == 1


@given(
    st.sampled_from(sorted(RULES)),
    final_lengths(rule="survivor"),
    st.randoms(use_true_random=False),
    st.sets(st.integers(0, 20)),
    st.sets(st.integers(0, 20)),
    st.booleans(),
    st.sampled_from(["keep", "drop", "rescue"]),
)
def test_every_group_ends_and_every_candidate_has_one_verdict(
    rule: str,
    case: tuple[int, int, list[tuple[int, bool]]],
    rng: random.Random,
    failures: set[int],
    bad_rewards: set[int],
    wait_for_all: bool,
    zero_variance: ZeroVariance,
) -> None:
    size, longest, finals = case
    group = new_group(rule, len(finals), size, longest, wait_for_all_rewards=wait_for_all, zero_variance=zero_variance)
    rewards = {index: float(rng.random() < 0.5) for index in range(20)}
    world = World([*finals, *finals], group, rng, failures=failures, bad_rewards=bad_rewards, rewards=rewards)
    world.run()
    assert world.completions == 1 and group.complete
    counts = Counter(index for index, _ in world.verdicts)
    assert counts == Counter(c.index for c in group.candidates)
    verdicts = dict(world.verdicts)
    kept = tuple(sorted(i for i, verdict in verdicts.items() if verdict == "kept"))
    assert kept == (world.kept or ())
    assert len(kept) != 1 and len(kept) <= (len(finals) if rule == "all" else size)
    assert all(group.candidate(i).reward == rewards[i] for i in kept)
    if zero_variance == "drop":
        assert len({rewards[i] for i in kept}) != 1
    if world.kept is None and zero_variance != "drop":
        assert sum(v in {"kept", "rejected"} for v in verdicts.values()) < 2
    replacements = len(group.candidates) - len(finals)
    assert replacements <= sum(v == "failed" and i < len(finals) for i, v in verdicts.items())


@st.composite
def small_worlds(draw: st.DrawFn) -> tuple[str, int, int, list[int], list[int]]:
    """A rule, n, L, final lengths, and the order in which the candidates' tokens are seen."""
    rule = draw(st.sampled_from(["shortest", "survivor", "dual_end", "all"]))
    size = draw(st.integers(2, 3))
    lengths = draw(st.lists(st.integers(1, 4), min_size=size, max_size=5))
    longest = draw(st.integers(0, size - 1))
    steps = draw(st.permutations([i for i, length in enumerate(lengths) for _ in range(length)]))
    return rule, size, longest, lengths, steps


DRAWS = [survivor_draw(SEED, candidate_id(GROUP_ID, i)) for i in range(5)]


def kept_by_definition(rule: str, size: int, longest: int, lengths: tuple[int, ...]) -> set[int]:
    """DESIGN 2.1, for candidates that all end validly."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    if rule == "all":
        return set(order)
    if rule == "shortest":
        return set(order[:size])
    short, rest = order[: size - longest], order[size - longest :]
    long = sorted(rest, key=DRAWS.__getitem__) if rule == "survivor" else rest[::-1]
    return {*short, *long[:longest]}


@settings(deadline=None)
@given(small_worlds())
def test_a_cancel_is_certain_and_goes_out_at_the_first_event_at_which_it_is(
    case: tuple[str, int, int, list[int], list[int]],
) -> None:
    """Brute force after each event: all ways the undecided could end, cancelled ones included.

    Candidates that no completion keeps are exactly those that are cancelled by now, and the kept set is what the rule
    says of all lengths.
    """
    rule, size, longest, lengths, steps = case
    group = new_group(rule, len(lengths), size, longest)
    bounds = [0] * len(lengths)
    decided: set[int] = set()
    cancelled: set[int] = set()
    for index in steps:
        if index in cancelled:
            continue
        bounds[index] += 1
        if bounds[index] == lengths[index]:
            decided.add(index)
            decision = group.on_finished(index, lengths[index], False)
        else:
            decision = group.on_progress(index, bounds[index])
        cancelled |= set(decision.cancel)
        ends = [[lengths[i]] if i in decided else range(b + 1, 7) for i, b in enumerate(bounds)]
        possible: set[int] = set()
        for completion in product(*ends):
            possible |= kept_by_definition(rule, size, longest, completion)
        running = set(range(len(lengths))) - decided
        if rule == "dual_end" and len(lengths) > size:
            assert not cancelled  # by definition: it waits for all, for the lengths' sake
        else:
            assert cancelled == running - possible
    for index in sorted(decided):
        group.on_reward(index, 1.0)
    assert set(group.kept) == kept_by_definition(rule, size, longest, tuple(lengths))


def test_a_replacement_that_could_not_be_kept_is_not_asked_for() -> None:
    state = GroupState(group_id=0, indices=range(4), rule=RULES["shortest"], group_size=2, keep_longest=0, run_seed=0)
    for index in (1, 2, 3):
        state.on_finished(index, 1, capped=False)
        state.on_reward(index, 1.0)
    decision = state.on_failed(0)  # candidate 0 could still have been the shortest; a new one at index 4 could not
    assert (decision.replace, decision.cancel, decision.kept) == ((), (), (1, 2))
    assert sorted(decision.verdicts) == [(0, "failed"), (1, "kept"), (2, "kept")]  # 3 was rejected before
    assert [candidate.index for candidate in state.candidates] == [0, 1, 2, 3]


@given(
    st.sampled_from(sorted(RULES)),
    final_lengths(rule="survivor"),
    st.randoms(use_true_random=False),
    st.sets(st.integers(0, 12)),
    st.sets(st.integers(0, 12)),
)
def test_who_was_certain_is_kept_unless_it_fails(
    rule: str,
    case: tuple[int, int, list[tuple[int, bool]]],
    rng: random.Random,
    failures: set[int],
    bad_rewards: set[int],
) -> None:
    size, longest, finals = case
    finals = [(length, False) for length, _ in finals]
    group = new_group(rule, len(finals), size, longest)
    world = World([*finals, *finals], group, rng, failures=failures, bad_rewards=bad_rewards)
    world.run()
    failed = {index for index, verdict in world.verdicts if verdict == "failed"}
    if world.kept is not None:  # else fewer than two are left
        assert world.certain - failed <= set(world.kept)
    if rule == "all":
        assert world.certain == {c.index for c in group.candidates}
