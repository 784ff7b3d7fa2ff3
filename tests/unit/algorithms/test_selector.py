"""The selector's decisions under any sequence of messages, sensible or not: the books always balance."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.effects import Effects, Stream
from darts_async.algorithms.ledger_records import CandidateEnded, CandidateReplaced, GroupPlanned, LedgerRecord
from darts_async.algorithms.selection import RULES, survivor_draw
from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.errors import ProtocolError
from darts_async.messages import (
    LEDGER_STATES,
    ChunksDropped,
    GroupOutcome,
    GroupPlan,
    GroupSwept,
    PlanAccepted,
    Progress,
    RolloutEnded,
    StepDone,
    Trajectory,
    VersionSpan,
    candidate_id,
)

GROUPS = 4


def new_selector(per_step: int = 1, eta: int = 2, **options: Any) -> Selector:
    return Selector(planner=StepPlanner(per_step, eta), run_seed=0, max_response_tokens=16, **options)


def plan_of(group_id: int, num: int = 4, rule: str = "survivor", size: int = 3, version: int = 0) -> GroupPlan:
    return GroupPlan(
        group_id=group_id,
        prompt_id=f"p{group_id}",
        rule=rule,
        group_size=size,
        keep_longest=1,
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(num)),
        dispatch_version=version,
        prompt_tokens=np.zeros(2, np.int32),
    )


def trajectory_of(candidate: int, length: int) -> Trajectory:
    return Trajectory(
        candidate_id=candidate,
        replica=0,
        finish_reason="length" if length == 16 else "stop",
        response_tokens=np.full(length, candidate, np.int32),
        behaviour_logprobs=np.zeros(length, np.float32),
        version_spans=(VersionSpan(0, 0),),
    )


def ended(candidate: int, tokens: int, reason: str) -> RolloutEnded:
    return RolloutEnded(candidate_id=candidate, replica=0, reason=reason, num_tokens=tokens)  # type: ignore[arg-type]


def everything(selector: Selector) -> Effects:
    return selector.take_effects() or Effects()


def some_event(rng: random.Random) -> tuple[str, int, int | str]:
    """Mostly what a run consists of; now and then a candidate or a group that does not exist."""
    kind = rng.choices(
        ["plan", "finish", "progress", "failed", "cancelled", "score", "train", "sweep"],
        weights=[4, 30, 10, 2, 2, 30, 10, 1],
    )[0]
    if kind == "plan":
        return kind, rng.randrange(GROUPS), rng.choice(sorted(RULES))
    if kind in {"train", "sweep"}:
        return kind, rng.randrange(GROUPS + 1), 0
    if kind == "score":
        return kind, rng.random() < 0.9, 0
    candidate = candidate_id(rng.randrange(GROUPS + (rng.random() < 0.05)), rng.randrange(4 + (rng.random() < 0.2)))
    return kind, candidate, rng.randint(1, 16)


class Fuzzer:
    """Plays the other roles, badly: repeats, contradicts, is late, and talks about what does not exist."""

    def __init__(self, zero_variance: str = "keep") -> None:
        self.selector = new_selector(zero_variance=zero_variance)
        self.records: list[LedgerRecord] = []
        self.to_score: list[int] = []
        self.given_out: list[int] = []
        self.outcomes: Counter[int] = Counter()
        self.version = 0

    def play(self, kind: str, first: int, second: int | str) -> None:
        selector = self.selector
        match kind:
            case "plan":
                plan = plan_of(first, rule=str(second))
                # Each way with unfinished groups is among them; the mix is more than any run has.
                unfinished = ("keep", "defer", "resume", "defer")[first]
                selector.on_plan("allocator-0", msgspec.structs.replace(plan, unfinished=unfinished))
            case "finish":
                selector.on_trajectory(trajectory_of(first, int(second)))
            case "progress":
                ids, counts = np.array([first], np.int64), np.array([second], np.int32)
                selector.on_progress(Progress(replica=0, candidate_ids=ids, num_tokens=counts))
            case "failed" | "cancelled":
                selector.on_ended(ended(first, int(second), kind))
            case "score":
                self.score(good=bool(first))
            case "train" if self.given_out:
                self.version += 1
                selector.on_step_done(StepDone(version=self.version, group_ids=(self.given_out.pop(0),)))
            case "sweep":
                if first in self.given_out:
                    self.given_out.remove(first)
                selector.on_swept(GroupSwept(group_id=first, staleness=3))
        self.collect()

    def score(self, *, good: bool) -> None:
        if self.to_score and good:
            candidate = self.to_score.pop(0)
            self.selector.on_reward(candidate, float(candidate % 3 == 0))
        elif self.to_score:
            self.selector.on_reward_failed(self.to_score.pop(0), "raised")

    def collect(self) -> None:
        effects = everything(self.selector)
        self.records += effects.records
        self.to_score += [wanted.candidate_id for wanted in effects.scores]
        self.given_out += [group.group_id for group in effects.groups]
        self.outcomes.update(reply.group_id for _, reply in effects.replies if isinstance(reply, GroupOutcome))
        self.selector.books.ledger.check()
        for group in effects.groups:
            assert len(group.candidate_ids) >= 2
            for candidate in group.candidate_ids:
                assert candidate in group.response_tokens


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(0, 600))
def test_any_sequence_of_messages_ends_every_candidate_once_and_balances(seed: int, freeze_at: int) -> None:
    fuzzer = Fuzzer(("keep", "drop", "rescue")[seed % 3])
    rng = random.Random(seed)
    for moment in range(300):
        if moment == freeze_at:
            fuzzer.selector.freeze()
        fuzzer.play(*some_event(rng))
    assert max(fuzzer.outcomes.values(), default=1) == 1
    summary = fuzzer.selector.close()
    fuzzer.collect()
    for what in ("rollouts", "tokens"):
        assert summary[f"{what}/generated"] == sum(summary[f"{what}/{state}"] for state in LEDGER_STATES)
    records = fuzzer.records
    dispatched = [c for r in records if isinstance(r, GroupPlanned) for c in r.candidate_ids]
    dispatched += [r.candidate_id for r in records if isinstance(r, CandidateReplaced)]
    assert Counter(dispatched) == Counter(r.candidate_id for r in records if isinstance(r, CandidateEnded))
    assert len(dispatched) == summary["rollouts/generated"]


def test_the_fuzzer_reached_training() -> None:
    """The property above says little about runs in which nothing gets that far."""
    fuzzers = [Fuzzer() for _ in range(20)]
    for seed, fuzzer in enumerate(fuzzers):
        rng = random.Random(seed)
        for _ in range(300):
            fuzzer.play(*some_event(rng))
    ends = Counter(state for f in fuzzers for state, count in f.selector.books.ledger.rollouts.items() if count)
    assert all(ends[state] >= 5 for state in ("trained", "rejected", "cancelled_tail", "failed"))
    assert ends["stale"] >= 1


def test_a_plan_twice_is_counted_and_not_accepted_twice() -> None:
    selector = new_selector()
    selector.on_plan("allocator-0", plan_of(0))
    assert [type(reply) for _, reply in everything(selector).replies] == [PlanAccepted]
    selector.on_plan("allocator-0", plan_of(0))
    assert selector.take_effects() is None and selector.protocol_errors == 1


def test_nothing_is_accepted_after_the_freeze() -> None:
    selector = new_selector()
    selector.freeze()
    selector.on_plan("allocator-0", plan_of(0))
    assert selector.take_effects() is None and selector.num_planned == 0


def test_a_rule_nobody_knows_and_sizes_that_cannot_work_are_protocol_errors() -> None:
    with pytest.raises(ProtocolError, match="'longest': unknown"):
        new_selector().on_plan("allocator-0", plan_of(0, rule="longest"))
    with pytest.raises(ProtocolError, match=r"keep_longest must lie in 0\.\.0"):
        new_selector().on_plan("allocator-0", plan_of(0, size=1))


def test_groups_are_released_in_the_planners_order() -> None:
    """Two groups a step, all with the same deadline: the last one takes a slot of the next step."""
    selector = new_selector(per_step=2, eta=1)
    for group_id in range(3):
        selector.on_plan("allocator-0", plan_of(group_id, num=2, size=2, rule="all"))
    for group_id in (2, 0, 1):
        for index in range(2):
            selector.on_trajectory(trajectory_of(candidate_id(group_id, index), 3))
            selector.on_reward(candidate_id(group_id, index), 0.5)
    assert [(g.group_id, g.step) for g in everything(selector).groups] == [(2, 0), (0, 0), (1, 1)]


def test_a_cancel_names_the_replica_that_has_the_group() -> None:
    selector = new_selector()
    selector.on_plan("allocator-0", plan_of(0, num=4, size=2, rule="shortest"))
    for index in range(2):
        selector.on_trajectory(trajectory_of(candidate_id(0, index), 1))
    (cancel,) = everything(selector).cancels
    assert (cancel.replica, cancel.candidate_ids) == (0, (candidate_id(0, 2), candidate_id(0, 3)))


def test_tokens_of_cancelled_ones_that_finish_anyway_count_and_nothing_is_saved() -> None:
    selector = new_selector()
    selector.on_plan("allocator-0", plan_of(0, num=3, size=2, rule="shortest"))
    for index, length in enumerate((1, 1, 16)):
        selector.on_trajectory(trajectory_of(candidate_id(0, index), length))
    selector.on_trajectory(trajectory_of(candidate_id(0, 2), 9))
    summary = selector.close()
    assert summary["tokens/cancelled_tail"] == 16 and summary["tokens_saved_estimate"] == 0


def test_repeated_messages_change_nothing() -> None:
    once, twice = new_selector(), new_selector()
    for selector, times in ((once, 1), (twice, 2)):
        selector.on_plan("allocator-0", plan_of(0, num=4, size=2, rule="shortest"))
        messages = [trajectory_of(candidate_id(0, i), length) for i, length in enumerate((9, 2, 2))]
        for message in [m for m in messages for _ in range(times)]:
            selector.on_trajectory(message)
        selector.on_progress(
            Progress(
                replica=0, candidate_ids=np.array([candidate_id(0, 3)], np.int64), num_tokens=np.array([2], np.int32)
            )
        )
        for _ in range(times):
            selector.on_ended(ended(candidate_id(0, 3), 3, "cancelled"))
            for index in range(3):
                selector.on_reward(candidate_id(0, index), 1.0)
        for _ in range(times):
            selector.on_step_done(StepDone(version=1, group_ids=(0,)))
    ours, theirs = everything(once), everything(twice)
    assert len(ours.scores) == len(theirs.scores) == 3
    assert len(ours.groups) == len(theirs.groups) == 1 and len(ours.cancels) == len(theirs.cancels) == 1
    assert len(ours.steps) == len(theirs.steps) == 1
    assert ours.steps[0].values == theirs.steps[0].values
    assert ours.steps[0].values["cancel/tokens_saved"] == 6  # length 9 was the only one above 3
    assert once.close() == twice.close()


def test_only_kept_responses_are_held_while_a_group_waits_for_its_step() -> None:
    selector = new_selector(per_step=1, eta=1)
    for group_id in range(2):
        selector.on_plan("allocator-0", plan_of(group_id, num=3, size=2, rule="shortest"))
    selector.on_plan("allocator-0", plan_of(2, num=3, size=2, rule="shortest", version=5))
    for index in range(3):
        selector.on_trajectory(trajectory_of(candidate_id(2, index), 3 + index))
        selector.on_reward(candidate_id(2, index), 0.0)
    assert selector.take_effects() is not None and selector._groups[2].state.complete
    assert sorted(selector._groups[2]._held) == [0, 1]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_dropped_group_makes_room_and_is_part_of_the_next_steps_numbers() -> None:
    """Two groups with equal rewards are dropped; the planner lets the third through; all three were generated."""
    selector = new_selector(zero_variance="drop", eta=0)
    for group_id in range(3):
        selector.on_plan("allocator-0", plan_of(group_id, num=4, size=2, rule="shortest"))
        for index, length in enumerate((1, 1, 9, 9)):
            selector.on_trajectory(trajectory_of(candidate_id(group_id, index), length))
            selector.on_reward(candidate_id(group_id, index), float(group_id == 2 and index == 0))
    effects = everything(selector)
    assert [group.group_id for group in effects.groups] == [2]
    outcomes = [reply for _, reply in effects.replies if isinstance(reply, GroupOutcome)]
    assert [(o.outcome, o.reason) for o in outcomes] == [("rejected", "zero_variance")] * 2
    selector.on_step_done(StepDone(version=1, group_ids=(2,)))
    values = everything(selector).steps[0].values
    assert values["selection/rejected_groups"] == 2
    assert values["selection/zero_variance_share"] == pytest.approx(2 / 3)
    assert values["candidates/4"] == 3
    # Two short ones finish; the other two are cancelled, and finish all the same: no length of theirs is taken.
    assert (values["response_length/generated"], values["reward/mean"]) == (1, pytest.approx(1 / 6))
    assert values["response_length/cancelled"] == 9
    summary = selector.close()
    assert (summary["groups/trained"], summary["groups/rejected"], summary["groups/stale"]) == (1, 2, 0)
    assert summary["zero_variance_groups"] == 2
    assert summary["kept_length/mean"] == summary["generated_length/mean"] == 1
    assert summary["rollouts/rejected"] == 4 and summary["rollouts/trained"] == 2


def test_evaluations_are_never_dropped() -> None:
    selector = new_selector(zero_variance="drop")
    plan = plan_of(0, num=2, size=2, rule="all")
    selector.on_plan("allocator-0", msgspec.structs.replace(plan, purpose="eval"))
    for index in range(2):
        selector.on_trajectory(trajectory_of(candidate_id(0, index), 3))
        selector.on_reward(candidate_id(0, index), 1.0)
    replies = everything(selector).replies
    assert [reply.outcome for _, reply in replies if isinstance(reply, GroupOutcome)] == ["evaluated"]


def test_the_wait_for_the_last_pick_runs_from_the_last_but_one_to_the_completion() -> None:
    clock = Clock()
    selector = new_selector(clock=clock)
    selector.on_plan("allocator-0", plan_of(0, num=3, size=3, rule="all"))
    for index, now_s in ((1, 101.0), (0, 103.0), (2, 110.0)):
        clock.now_s = now_s
        selector.on_trajectory(trajectory_of(candidate_id(0, index), 3))
    for index in range(3):
        clock.now_s += 1.0
        selector.on_reward(candidate_id(0, index), 1.0)
    selector.on_step_done(StepDone(version=1, group_ids=(0,)))
    values = everything(selector).steps[0].values
    assert values["selection/last_pick_wait_s"] == values["selection/last_pick_wait_max_s"] == 113.0 - 103.0


def test_tokens_saved_are_told_per_step_and_tokens_so_far_of_the_cancelled() -> None:
    selector = new_selector()
    for group_id in range(2):
        selector.on_plan("allocator-0", plan_of(group_id, num=4, size=2, rule="shortest"))
        for index, length in ((2, 10), (0, 2), (1, 2)):
            selector.on_trajectory(trajectory_of(candidate_id(group_id, index), length))
            selector.on_reward(candidate_id(group_id, index), 1.0)
        ids, counts = np.array([candidate_id(group_id, 3)], np.int64), np.array([2], np.int32)
        selector.on_progress(Progress(replica=0, candidate_ids=ids, num_tokens=counts))
        selector.on_ended(ended(candidate_id(group_id, 3), 4, "cancelled"))
        selector.on_step_done(StepDone(version=group_id + 1, group_ids=(group_id,)))
    first, second = (step.values for step in everything(selector).steps)
    assert first["response_length/cancelled"] == second["response_length/cancelled"] == 4
    # Whoever was longer than 4 had 10: six saved, each time.
    assert (first["cancel/tokens_saved_in_step"], first["cancel/tokens_saved"]) == (6, 6)
    assert (second["cancel/tokens_saved_in_step"], second["cancel/tokens_saved"]) == (6, 12)


class TestStreaming:
    """Orders to stream, and drops, for a group of three: who has it, who is certain, who is lost."""

    def selector(self, rule: str, num: int, **options: Any) -> Selector:
        selector = new_selector(stream_tokens=True, **options)
        selector.on_plan("allocator-0", plan_of(0, num=num, rule=rule))
        assert not everything(selector).cancels  # nobody is known to have it
        return selector

    def progress(self, selector: Selector, index: int, tokens: int, replica: int = 2) -> None:
        ids, counts = np.array([index], np.int64), np.array([tokens], np.int32)
        selector.on_progress(Progress(replica=replica, candidate_ids=ids, num_tokens=counts))

    def test_all_of_them_at_first_sight_and_once(self) -> None:
        selector = self.selector("all", 3)
        self.progress(selector, 1, 4)
        assert everything(selector).cancels == [Stream(2, (0, 1, 2))]
        self.progress(selector, 1, 8)
        selector.on_trajectory(trajectory_of(0, 5))
        assert not everything(selector).cancels

    def test_a_replacement_too_and_the_failed_one_is_dropped(self) -> None:
        selector = self.selector("all", 3)
        self.progress(selector, 1, 4)
        everything(selector)
        selector.on_ended(ended(0, 3, "failed"))
        effects = everything(selector)
        assert effects.cancels == [Stream(0, (3,))]
        assert [m.candidate_ids for m in effects.groups if isinstance(m, ChunksDropped)] == [(0,)]

    def test_the_survivor_with_the_cancel_that_settles_it(self) -> None:
        selector = self.selector("survivor", 5)
        by_draw = sorted(range(5), key=lambda index: survivor_draw(0, index))
        for index in by_draw[3:]:
            selector.on_trajectory(trajectory_of(index, 5))
        for index in (by_draw[2], by_draw[1]):
            self.progress(selector, index, 9, replica=0)
            assert not any(isinstance(order, Stream) for order in everything(selector).cancels)
        self.progress(selector, by_draw[0], 9, replica=0)
        assert everything(selector).cancels[-1] == Stream(0, (by_draw[0],))

    def test_groups_without_a_signal_that_are_dropped_take_their_chunks_with_them(self) -> None:
        selector = self.selector("all", 3, zero_variance="drop")
        self.progress(selector, 0, 4)
        for index in range(3):
            selector.on_trajectory(trajectory_of(index, 5))
            selector.on_reward(index, 1.0)
        assert [m.candidate_ids for m in everything(selector).groups] == [(0, 1, 2)]

    def test_never_evaluations_and_nothing_when_it_is_off(self) -> None:
        selector = new_selector(stream_tokens=True)
        selector.on_plan("allocator-0", msgspec.structs.replace(plan_of(0, num=3, rule="all"), purpose="eval"))
        self.progress(selector, 0, 4)
        assert not everything(selector).cancels
        off = new_selector()
        off.on_plan("allocator-0", plan_of(0, num=3, rule="all"))
        self.progress(off, 0, 4)
        assert not everything(off).cancels
