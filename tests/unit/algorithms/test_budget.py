"""The budget: order statistics against exact cases and simulation, its limits for flat and proportional latency."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.budget import BudgetTerms, Workload, best_budget, terms
from darts_async.algorithms.length_statistics import LengthProfile
from darts_async.config.schema import AllocationSection

DEFAULT = AllocationSection().cost_weight
MODES = pytest.mark.parametrize("overlapped", [True, False], ids=["overlapped", "batches"])
RULES = pytest.mark.parametrize("rule", ["dual_end", "shortest", "survivor", "first_finished"])


def prompts(sigma: float, num: int = 16) -> list[LengthProfile]:
    """Measured: ln(mean) of a prompt ~ N(6.69, 0.43)."""
    score = NormalDist().inv_cdf
    return [LengthProfile(0, 0, 6.69 + 0.43 * score((i + 0.5) / num), sigma) for i in range(num)]


def workload(rule: str, *, overlapped: bool, slots: int = 100_000, groups: float = 16) -> Workload:
    return Workload(rule, 8, 1, groups, slots, overlapped, cap=8192)


def proportional(b: np.ndarray) -> np.ndarray:
    return 1e-3 * np.asarray(b, dtype=float)


def flat(b: np.ndarray) -> np.ndarray:
    return 1e-2 + 0.0 * np.asarray(b, dtype=float)


@MODES
@RULES
@pytest.mark.parametrize("groups", [4, 16, 64])
@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.25])
def test_proportional_latency_gives_n_and_flat_latency_the_most(rule, overlapped, sigma, groups):
    job = workload(rule, overlapped=overlapped, groups=groups)
    assert best_budget(terms(prompts(sigma), job, proportional, 8, 16), DEFAULT) == 8
    assert best_budget(terms(prompts(sigma), job, flat, 8, 16), DEFAULT) == 16


@MODES
def test_a_full_engine_is_not_free(overlapped):
    job = workload("dual_end", overlapped=overlapped, slots=64, groups=64)
    assert best_budget(terms(prompts(0.2), job, flat, 8, 16), DEFAULT) == 8


@MODES
@RULES
@pytest.mark.parametrize("curve", [proportional, flat, lambda b: 8e-3 + 2e-4 * np.asarray(b, dtype=float)])
@pytest.mark.parametrize("sigma", [0.2, 0.9])
def test_the_optimum_never_rises_with_lambda(rule, overlapped, curve, sigma):
    found = terms(prompts(sigma), workload(rule, overlapped=overlapped), curve, 8, 16)
    budgets = [best_budget(found, weight) for weight in np.concatenate(([0.0], np.geomspace(1e-3, 100, 60)))]
    assert budgets == sorted(budgets, reverse=True)


@settings(deadline=None)
@given(
    found=st.lists(st.tuples(st.floats(-1, 1), st.floats(0.2, 3)), min_size=1, max_size=9),
    weights=st.tuples(st.floats(0, 10), st.floats(0, 10)),
)
def test_monotone_in_lambda_whatever_the_terms(found, weights):
    rows = [BudgetTerms(8 + i, shortening, time) for i, (shortening, time) in enumerate(found)]
    less, more = sorted(weights)
    assert best_budget(rows, more) <= best_budget(rows, less)


def test_best_budget_by_hand():
    rows = [BudgetTerms(8, 0.0, 1.0), BudgetTerms(9, 0.1, 0.9), BudgetTerms(10, 0.15, 1.2)]
    assert best_budget(rows, 0.2) == 10  # 0.15 - 0.04 = 0.11 > 0.1
    assert best_budget(rows, 0.3) == 9  # 0.15 - 0.06 = 0.09 < 0.1
    assert best_budget(rows[:1], 1.0) == 8


@pytest.mark.parametrize(
    ("rule", "sigma"), [("dual_end", 0.2), ("dual_end", 0.9), ("survivor", 0.9), ("shortest", 0.34), ("all", 0.5)]
)
def test_expectations_agree_with_simulated_groups(rule, sigma):
    """20,000 groups of one prompt: kept lengths, decoded tokens and the makespan."""
    num, n = (8 if rule == "all" else 12), 8
    rng = np.random.default_rng(3)
    draws = np.sort(np.minimum(np.exp(6.0 + sigma * rng.standard_normal((20_000, num))), 4096), axis=1)
    base = np.minimum(np.exp(6.0 + sigma * rng.standard_normal((20_000, n))), 4096)
    longest = 1 if rule in {"dual_end", "survivor"} else 0
    short = n - longest
    decoded = draws.copy()
    if rule == "dual_end":
        kept = np.concatenate([draws[:, :short], draws[:, -1:]], axis=1)
    elif rule == "survivor":
        kept = np.concatenate(
            [draws[:, :short], draws[np.arange(20_000), rng.integers(short, num, 20_000)][:, None]], axis=1
        )
        decoded[:, short:-1] = draws[:, [short - 1]]
        decoded[:, -1] = kept[:, -1]
    else:
        kept = draws[:, :n]
        decoded[:, n:] = draws[:, [n - 1]]
    profile = [LengthProfile(0, 0, 6.0, sigma)]
    job = Workload(rule, n, 1, 8.0, 100_000, False, cap=4096)
    row = terms(profile, job, proportional, num, num)[0]
    assert row.shortening == pytest.approx(1 - kept.mean() / base.mean(), abs=0.015)
    assert row.time == pytest.approx(decoded.sum(axis=1).mean() / base.sum(axis=1).mean(), rel=0.02)
    flat_row = terms(profile, job, flat, num, num)[0]
    makespans = [groups.reshape(2500, 8, -1).max(axis=(1, 2)).mean() for groups in (decoded, base)]
    assert flat_row.time == pytest.approx(makespans[0] / makespans[1], rel=0.03)


def test_overlapped_time_is_tokens_over_throughput():
    """With every slot taken, the time of a group is its tokens times PTL(slots) / slots."""
    job = workload("dual_end", overlapped=True, slots=10)
    row = terms([LengthProfile(0, 0, 5.0, 0.4)], job, flat, 16, 16)[0]
    assert row.time == pytest.approx(2.0, rel=1e-6)


def test_the_base_is_n_and_equal_lengths_leave_nothing_to_shorten():
    rows = terms([LengthProfile(0, 0, 5.0, 1e-6)], workload("dual_end", overlapped=False), flat, 8, 16)
    assert (rows[0].shortening, rows[0].time) == (0, 1)
    assert max(row.shortening for row in rows) == pytest.approx(0, abs=1e-4)
    assert all(math.isfinite(row.time) for row in rows)
    wide = terms([LengthProfile(0, 0, 5.0, 3.0)], replace(workload("shortest", overlapped=True), cap=64), flat, 8, 16)
    assert all(math.isfinite(row.time) and row.shortening < 1 for row in wide)
