"""The workload model has the moments that its profile says, and depends on nothing but prompt, seed and version."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.twin.policy import encode, score
from darts_async.twin.profile import WorkloadProfile
from darts_async.twin.workload import Workload

NUMBERS = st.integers(0, 10**6)


@given(NUMBERS, NUMBERS, st.integers(0, 3))
def test_a_response_is_the_same_whenever_it_is_drawn(prompt: int, seed: int, version: int):
    profile = WorkloadProfile(length_effect=0.5, tail_share=0.1, tail_factor=5.0)
    first, second = Workload(profile, 7), Workload(profile, 7)
    first.draw(prompt + 1, seed, version)
    assert first.draw(prompt, seed, version) == second.draw(prompt, seed, version)


def test_lengths_have_the_moments_of_the_profile():
    profile = WorkloadProfile(median_tokens=800.0, prompt_sigma=0.43, sigma=0.2, sigma_spread=0.4)
    workload = Workload(profile, 0)
    groups = [[math.log(workload.draw(p, s, 0).length) for s in range(64)] for p in range(1500)]
    means = [statistics.fmean(group) for group in groups]
    sigmas = [statistics.stdev(group) for group in groups]
    assert statistics.fmean(means) == pytest.approx(math.log(800), abs=0.04)
    assert statistics.stdev(means) == pytest.approx(0.43, rel=0.06)
    assert statistics.median(sigmas) == pytest.approx(0.2, rel=0.06)
    spread = statistics.stdev(math.log(sigma) for sigma in sigmas)
    assert spread == pytest.approx(math.hypot(0.4, 1 / math.sqrt(2 * 63)), rel=0.08)


def test_a_heavier_tail():
    plain = Workload(WorkloadProfile(median_tokens=100.0, sigma=0.3), 0)
    heavy = Workload(WorkloadProfile(median_tokens=100.0, sigma=0.3, tail_share=0.05, tail_factor=8.0), 0)
    pairs = [(plain.draw(p, s, 0).length, heavy.draw(p, s, 0).length) for p in range(200) for s in range(20)]
    longer = [after / before for before, after in pairs if after > 1.5 * before]
    assert len(longer) / len(pairs) == pytest.approx(0.05, abs=0.012)
    assert statistics.fmean(longer) == pytest.approx(8.0, rel=0.02)


@pytest.mark.parametrize(("pattern_one", "shorter_is_better"), [(1.0, True), (0.0, False)])
def test_patterns(pattern_one: float, *, shorter_is_better: bool):
    profile = WorkloadProfile(length_effect=1.0, pattern_one=pattern_one, prompt_sigma=0.0)
    workload = Workload(profile, 1)
    drawn = [workload.draw(p, s, 0) for p in range(300) for s in range(10)]
    right = statistics.fmean(d.length for d in drawn if d.correct)
    wrong = statistics.fmean(d.length for d in drawn if not d.correct)
    assert (right < wrong) == shorter_is_better
    assert statistics.fmean(d.correct for d in drawn) == pytest.approx(0.5, abs=0.05)


def test_accuracy_grows_with_learning():
    workload = Workload(WorkloadProfile(learning=0.1, accuracy_spread=0.0, accuracy=0.5), 0)
    after = statistics.fmean(workload.draw(p, 0, 20).correct for p in range(4000))
    assert after == pytest.approx(1 / (1 + math.exp(-2.0)), abs=0.02)


def test_lengths_follow_selection_by_the_breeders_equation():
    profile = WorkloadProfile(median_tokens=100.0, prompt_sigma=0.0, shaping=0.25)
    workload = Workload(profile, 0)
    half = [(0, [50, 50]), (1, [50, 50])]
    workload.trained(1, half)
    assert workload.shift(0) == 0.0
    assert workload.shift(1) == pytest.approx(0.25 * math.log(0.5))
    workload.trained(2, [(0, [round(100 * math.exp(workload.shift(1)))])])  # as the policy samples: nothing changes
    assert workload.shift(2) == pytest.approx(workload.shift(1), abs=2e-3)
    assert workload.shift(99) == workload.shift(2)
    assert workload.draw(5, 5, 2).length < workload.draw(5, 5, 0).length


def test_a_flag_says_whether_it_is_correct():
    workload = Workload(WorkloadProfile(), 0)
    drawn = [workload.draw(p, 0, 0) for p in range(50)]
    assert [score(encode(d)) for d in drawn] == [float(d.correct) for d in drawn]
