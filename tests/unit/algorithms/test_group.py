"""One group: hand-computed stories, then properties over random arrival orders, speeds, failures and repeats."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from darts_async.algorithms.group import NOTHING, Decision, GroupState, Status
from darts_async.algorithms.selection import RULES, survivor_draw
from darts_async.messages import candidate_id

GROUP_ID = 5
SEED = 11


def new_group(rule: str, num: int, size: int, longest: int = 1, **options: bool) -> GroupState:
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
    def test_cancels_at_the_progress_event_that_settles_the_set(self) -> None:
        group = new_group("shortest", 4, 2)
        finish(group, 0, 10)
        finish(group, 1, 12)
        assert group.on_progress(2, 12) is NOTHING  # may end at 13, but (13, 2) > (12, 1): cleared
        assert group.on_progress(3, 11) == Decision(
            cancel=(2, 3),
            verdicts=((2, "cancelled_tail"), (3, "cancelled_tail"), (0, "kept"), (1, "kept")),
            complete=True,
            kept=(0, 1),
        )
        assert group.settled_length == 12

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
        finish(group, 0, 10)
        finish(group, 1, 10)
        first, *others = draws([2, 3, 4])
        for index in (2, 3):
            assert group.on_progress(index, 10) is NOTHING
        settled = group.on_progress(4, 10)
        assert settled.cancel == tuple(sorted(others)) and not settled.complete
        assert finish(group, first, 200)[-1].kept == tuple(sorted((0, 1, first)))

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
    never_cancelled: bool = False
    """Cancels arrive too late: everything finishes anyway."""
    verdicts: list[tuple[int, str]] = field(default_factory=list)
    completions: int = 0
    kept: tuple[int, ...] | None = None

    def run(self) -> None:
        """Deliver all events in a random order that a set of engines could produce."""
        running = {c.index: 0 for c in self.group.candidates}
        late: list[tuple[int, int]] = []
        unscored: list[int] = []
        while running or unscored:
            if unscored and (not running or self.rng.random() < 0.3):
                index = unscored.pop(self.rng.randrange(len(unscored)))
                self._take(self.group.on_reward(index, float("nan") if index in self.bad_rewards else 1.0), running)
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
        if decision.complete:
            self.completions += 1
            self.kept = decision.kept


@st.composite
def final_lengths(draw: st.DrawFn, rule: str = "shortest") -> tuple[int, int, list[tuple[int, bool]]]:
    size = draw(st.integers(2, 4))
    longest = draw(st.integers(0, size - 1)) if rule == "survivor" else 0
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


@given(
    st.sampled_from(sorted(RULES)),
    final_lengths(rule="survivor"),
    st.randoms(use_true_random=False),
    st.sets(st.integers(0, 20)),
    st.sets(st.integers(0, 20)),
    st.booleans(),
)
def test_every_group_ends_and_every_candidate_has_one_verdict(
    rule: str,
    case: tuple[int, int, list[tuple[int, bool]]],
    rng: random.Random,
    failures: set[int],
    bad_rewards: set[int],
    wait_for_all: bool,
) -> None:
    size, longest, finals = case
    group = new_group(rule, len(finals), size, longest, wait_for_all_rewards=wait_for_all)
    world = World([*finals, *finals], group, rng, failures=failures, bad_rewards=bad_rewards)
    world.run()
    assert world.completions == 1 and group.complete
    counts = Counter(index for index, _ in world.verdicts)
    assert counts == Counter(c.index for c in group.candidates)
    verdicts = dict(world.verdicts)
    kept = tuple(sorted(i for i, verdict in verdicts.items() if verdict == "kept"))
    assert kept == (world.kept or ())
    assert len(kept) != 1 and len(kept) <= (len(finals) if rule == "all" else size)
    assert all(group.candidate(i).reward == 1.0 for i in kept)
    if world.kept is None:
        assert sum(v in {"kept", "rejected"} for v in verdicts.values()) < 2
    replacements = len(group.candidates) - len(finals)
    assert replacements <= sum(v == "failed" and i < len(finals) for i, v in verdicts.items())


@given(final_lengths(), st.randoms(use_true_random=False))
def test_cancels_go_out_at_the_first_event_at_which_the_set_is_certain(
    case: tuple[int, int, list[tuple[int, bool]]], rng: random.Random
) -> None:
    """An oracle recomputed from scratch at each event: n finished, and no lower bound below the n-th of them."""
    size, _, finals = case
    group = new_group("shortest", len(finals), size)
    events = [(i, t) for i, (length, _) in enumerate(finals) for t in range(1, length + 1)]
    rng.shuffle(events)
    bounds = dict.fromkeys(range(len(finals)), 0)
    keys: list[tuple[bool, int, int]] = []
    for index, tokens in events:
        if index not in bounds:
            continue
        length, capped = finals[index]
        if tokens == length:
            del bounds[index]
            keys = sorted([*keys, (capped, length, index)])
            decision = group.on_finished(index, length, capped)
        else:
            bounds[index] = max(bounds[index], tokens)
            decision = group.on_progress(index, tokens)
        certain = not bounds or (
            len(keys) >= size and all((False, t + 1, i) > keys[size - 1] for i, t in bounds.items())
        )
        assert group.settled == certain
        if certain:
            assert decision.cancel == tuple(sorted(bounds))
            return
