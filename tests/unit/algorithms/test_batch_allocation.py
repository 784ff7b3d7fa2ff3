"""Allotments batch by batch: totals that add up, cold start, pruning, the automatic budget, saved states."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.allocation import FixedMean
from darts_async.algorithms.batch_allocation import AllocationRules, BatchAllocation, PromptKey, is_adaptive
from darts_async.algorithms.dispatch import Dispatcher, GroupJob
from darts_async.algorithms.prompt_order import PromptOrder
from darts_async.algorithms.staleness import Admission
from darts_async.config import load_config
from darts_async.messages import ObservedLength

PROMPTS = [PromptKey(f"p{index}", "s") for index in range(12)]


def rules(**changes: object) -> AllocationRules:
    config = load_config(None, [("group.groups_per_step", "4"), ("selection.rule", "dual_end")])
    return replace(AllocationRules.of(config), **{"signal": "std", "budget": 12.0} | changes)


def identity(draw: int) -> int:
    return draw % len(PROMPTS)


def fresh() -> Callable[[], int]:
    numbers = count()
    return lambda: next(numbers) % len(PROMPTS)


def teach(allocation: BatchAllocation, version: int, spread: Callable[[int], int]) -> None:
    """Every prompt's lengths: 100 +- spread(prompt)."""
    for index in range(len(PROMPTS)):
        lengths = [ObservedLength(100 + sign * spread(index), False) for sign in (-1, 1)] * 4
        allocation.observe(index, 100 * version + index, lengths)
    allocation.published(version)


def test_a_cold_start_is_uniform():
    allocation, source = BatchAllocation(rules(), PROMPTS, identity), fresh()
    allotments = [allocation.draw(source) for _ in range(8)]
    assert [a.draw for a in allotments] == list(range(8))
    assert [a.num_candidates for a in allotments] == [12] * 8
    assert {a.rule for a in allotments} == {""}


@settings(deadline=None, max_examples=40)
@given(budget=st.floats(8, 16), batches=st.integers(1, 30), batch_size=st.integers(1, 7))
def test_the_mean_is_the_budget_in_the_long_run(budget: float, batches: int, batch_size: int):
    allocation, source = BatchAllocation(rules(budget=budget, batch_size=batch_size), PROMPTS, identity), fresh()
    teach(allocation, 1, lambda index: 5 * index + 1)
    numbers = [allocation.draw(source).num_candidates for _ in range(batches * batch_size)]
    assert abs(sum(numbers) - budget * len(numbers)) < 1 + 1e-6
    assert all(8 <= number <= 16 for number in numbers)
    assert allocation.clamped == 0


def test_what_is_observed_counts_from_the_next_version_on():
    allocation, source = BatchAllocation(rules(), PROMPTS, identity), fresh()
    teach(allocation, 1, lambda index: 40 if index == 3 else 1)
    assert [allocation.draw(source).num_candidates for _ in range(4)] == [11, 11, 10, 16]
    for index in range(12):
        allocation.observe(index, 900 + index, [ObservedLength(100, False)] * 8)
    drawn = [allocation.draw(source) for _ in range(8)]  # prompts 4..11: all spread alike
    assert [a.num_candidates for a in drawn] == [12] * 8


def test_lanes_do_not_mix():
    allocation = BatchAllocation(rules(), PROMPTS, identity)
    first, second = fresh(), iter(range(5, 9))
    assert allocation.draw(first).draw == 0
    assert [allocation.draw(lambda: next(second), lane=True).draw for _ in range(4)] == [5, 6, 7, 8]
    assert allocation.draw(first).draw == 1


def test_of_the_saturated_prompts_the_widest_are_pruned():
    allocation, source = BatchAllocation(rules(prune_fraction=0.25), PROMPTS, identity), fresh()
    # One prompt a batch may be pruned. Batches: 0..3 with one saturated, 4..7 with two, 8..11 alike.
    teach(allocation, 1, lambda index: {3: 40, 5: 60, 6: 50}.get(index, 1))
    drawn = [allocation.draw(source) for _ in range(12)]
    saturated = [a.draw for a in drawn if a.num_candidates == 16]
    assert saturated == [3, 5, 6]
    assert [a.draw for a in drawn if a.rule == "shortest"] == [3, 5]


def test_on_policy_modes_wait_for_the_outcomes_of_a_version():
    assert BatchAllocation(rules(waits=True), PROMPTS, identity).is_behind(1)
    assert not BatchAllocation(rules(waits=False), PROMPTS, identity).is_behind(1)
    allocation = BatchAllocation(rules(waits=True, batch_size=2), PROMPTS, identity)
    dispatcher = Dispatcher(
        admission=Admission(groups_per_step=2, eta=0, steps=3, in_flight_groups=4),
        order=PromptOrder(len(PROMPTS), seed=1),
        allocation=allocation,
        steps=3,
        num_eval_prompts=0,
        eval_samples=1,
    )
    dispatcher.credits.grant("g", 1000)
    jobs = [dispatcher.next_job(), dispatcher.next_job()]
    assert dispatcher.next_job() is None
    dispatcher.published(1)  # overtakes the outcomes
    assert dispatcher.next_job() is None
    for job in jobs:
        assert isinstance(job, GroupJob)
        assert dispatcher.next_job() is None
        allocation.observe(job.prompt_index, job.group_id, [ObservedLength(10, False)] * 8)
        dispatcher.group_ended(job.group_id, trained=True)
    assert isinstance(dispatcher.next_job(), GroupJob)
    assert allocation.to_state()["version"] == 1


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 8), (0.0, 16)], ids=["proportional", "flat"])
def test_the_automatic_budget_follows_the_measured_latency(slope: float, expected: int):
    auto = rules(budget="auto", signal="mean_2std")
    allocation, source = (
        BatchAllocation(replace(auto, workload=replace(auto.workload, slots=4096)), PROMPTS, identity),
        fresh(),
    )
    rng = np.random.default_rng(0)
    for index in range(len(PROMPTS)):
        lengths = np.round(300 * np.exp(0.2 * rng.standard_normal(64))).astype(int).tolist()
        allocation.observe(index, index, [ObservedLength(length, False) for length in lengths])
    assert [allocation.draw(source).num_candidates for _ in range(4)] == [12] * 4
    allocation.published(1)
    assert allocation.draw(source).num_candidates > 0 and allocation.budget == 12  # lengths, but no latencies yet
    levels = [1, 2, 4, 8, 16, 32, 64, 128] * 8
    allocation.measured(levels, [0.001 * level**slope for level in levels])
    for _ in range(3):
        allocation.draw(source)
    allocation.draw(source)
    assert (allocation.budget, allocation.candidates_mean) == (expected, expected)


def test_a_restored_allocation_goes_on_as_the_one_that_was_saved():
    allocation = BatchAllocation(rules(budget=11.3, prune_fraction=0.1), PROMPTS, identity)
    source = fresh()
    for version in (1, 2):
        teach(allocation, version, lambda index: 3 * index + 1)
        for _ in range(8):
            allocation.draw(source)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(allocation.to_state()))
    restored = BatchAllocation(rules(budget=11.3, prune_fraction=0.1), PROMPTS, identity)
    restored.restore(state)
    sources = fresh(), fresh()
    teach(allocation, 3, lambda index: 40 - 3 * index)
    teach(restored, 3, lambda index: 40 - 3 * index)
    for _ in range(12):
        assert allocation.draw(sources[0]) == restored.draw(sources[1])
    assert allocation.to_state() == restored.to_state()
    with pytest.raises(ValueError, match="not a state"):
        restored.restore({"version": 1})


def test_infeasible_totals_are_clamped_and_counted():
    allocation = BatchAllocation(rules(budget=20.0), PROMPTS, identity)
    assert [allocation.draw(fresh()).num_candidates for _ in range(4)] == [16] * 4
    assert allocation.clamped == 16


def test_a_fixed_mean_is_uniform_and_needs_none_of_this():
    assert not is_adaptive(load_config(None, [("allocation.signal", "uniform"), ("allocation.budget", "12")]))
    assert is_adaptive(load_config(None, [("allocation.signal", "uniform"), ("allocation.budget", "auto")]))
    assert is_adaptive(load_config(None, [("allocation.signal", "std")]))
    mean, source = FixedMean(10.5), fresh()
    drawn = [mean.draw(source) for _ in range(4)]
    assert [(a.draw, a.num_candidates) for a in drawn] == [(0, 10), (1, 11), (2, 10), (3, 11)]
