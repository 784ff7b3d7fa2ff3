"""The schedule of faults: everybody who is named gets their share, and the seed decides the rest."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.chaos_schedule import ROLES, ChaosPlan, make_schedule
from darts_async.errors import ConfigError

named = st.lists(st.sampled_from((*ROLES, "all")), max_size=4).map(tuple)
plans = st.builds(
    ChaosPlan,
    kill=named,
    stop=named,
    delay=named,
    kills=st.integers(1, 5),
    stops=st.integers(1, 5),
    delays=st.integers(1, 5),
    stop_s=st.floats(0.1, 60),
    delay_s=st.floats(0.1, 60),
    gap_s=st.floats(0, 10),
    seed=st.integers(0, 2**31),
)


@given(plans, st.integers(1, 4))
def test_each_named_role_gets_its_number_of_each_fault_and_nobody_else_any(plan: ChaosPlan, replicas: int) -> None:
    schedule = make_schedule(plan, replicas)
    for kind, roles, times in (
        ("kill", plan.kill, plan.kills),
        ("stop", plan.stop, plan.stops),
        ("delay", plan.delay, plan.delays),
    ):
        wanted = set(ROLES) if "all" in roles else set(roles)
        counted = Counter(fault.target.rpartition("-")[0] for fault in schedule if fault.kind == kind)
        assert counted == dict.fromkeys(wanted, times)
    for fault in schedule:
        role, _, rank = fault.target.rpartition("-")
        assert 0 <= int(rank) < (replicas if role == "generator" else 1)
        assert 0.5 * plan.gap_s <= fault.gap_s <= 1.5 * plan.gap_s
        assert fault.lasts_s == {"kill": 0.0, "stop": plan.stop_s, "delay": plan.delay_s}[fault.kind]


@given(plans, st.integers(1, 4))
def test_the_same_seed_gives_the_same_schedule(plan: ChaosPlan, replicas: int) -> None:
    assert make_schedule(plan, replicas) == make_schedule(plan, replicas)


def test_another_seed_gives_another_order_and_other_replicas() -> None:
    schedules = [make_schedule(ChaosPlan(kill=("all",), kills=4, seed=seed), 4) for seed in range(8)]
    orders = {tuple(fault.target for fault in schedule) for schedule in schedules}
    assert len(orders) == 8
    assert {fault.target for schedule in schedules for fault in schedule} >= {f"generator-{rank}" for rank in range(4)}


def test_a_replica_can_be_named() -> None:
    schedule = make_schedule(ChaosPlan(stop=("generator-2",), stops=3), 3)
    assert [fault.target for fault in schedule] == ["generator-2"] * 3


@pytest.mark.parametrize("role", ["generator-3", "learner-1", "supervisor", "Learner"])
def test_a_role_that_there_is_not_is_refused(role: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_schedule(ChaosPlan(kill=("learner", role)), 3)
    assert refused.value.key == "--kill" and refused.value.value == role
    assert "generator-2" in refused.value.fix
