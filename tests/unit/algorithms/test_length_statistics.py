"""Length statistics: hand-computed averages, censored lengths, shrinkage, and the signal of a prompt always pruned."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.algorithms.censored import LogMoments, group_moments
from darts_async.algorithms.length_statistics import STRATUM_WEIGHT, LengthProfile, LengthStatistics
from darts_async.algorithms.normal import above, cumulative, hazard, quantile
from darts_async.messages import ObservedLength

CAP = 8192
SIGNALS = ("std", "mean", "max", "mean_2std")


def seen(*tokens: int) -> list[ObservedLength]:
    return [ObservedLength(length, False) for length in tokens]


def cut(*tokens: int) -> list[ObservedLength]:
    return [ObservedLength(length, True) for length in tokens]


def test_the_normal_distribution():
    assert hazard(0.0) == pytest.approx(math.sqrt(2 / math.pi))
    assert hazard(12.0) == pytest.approx(12.0821, abs=2e-4)  # by the continued fraction
    assert hazard(1e6) == pytest.approx(1e6)
    assert above(1.959964) == pytest.approx(0.025, rel=1e-5)
    assert cumulative(np.array([-50.0, 0.0, quantile(0.9), 50.0])) == pytest.approx([0, 0.5, 0.9, 1], abs=1e-6)


def test_observed_lengths_enter_as_they_are():
    moments = group_moments([10, 20, CAP], [], cap=CAP)
    assert moments.mean == pytest.approx((30 + CAP) / 3)
    assert moments.second == pytest.approx((500 + CAP**2) / 3)
    plain = group_moments([10, 20], [], cap=CAP)
    assert plain.log.mean == pytest.approx(math.log(200) / 2)
    assert plain.log.sigma == pytest.approx(math.log(2) / 2)


def test_a_censored_length_counts_as_what_is_expected_beyond_its_bound():
    past = LogMoments(math.log(100), math.log(100) ** 2 + 0.25)  # mu = ln 100, sigma = 0.5
    moments = group_moments([], [100], cap=300, past=past, weight=1e-12)
    x = np.linspace(math.log(100.5), math.log(100) + 6, 200_001)
    density = np.exp(-0.5 * ((x - math.log(100)) / 0.5) ** 2)
    lengths = np.minimum(np.exp(x), 300.0)
    assert moments.mean == pytest.approx(float((lengths * density).sum() / density.sum()), rel=1e-4)
    assert moments.second == pytest.approx(float((lengths**2 * density).sum() / density.sum()), rel=1e-4)
    assert moments.log.mean == pytest.approx(float((x * density).sum() / density.sum()), rel=1e-4)


def test_bounds_behind_every_known_length_need_no_known_length():
    moments = group_moments([], [500, 500], cap=CAP)
    assert 500 < moments.mean < 1500
    known = group_moments([], [5], cap=CAP, expected=LogMoments(math.log(400), math.log(400) ** 2 + 0.01))
    assert known.mean == pytest.approx(400, rel=0.02)
    with pytest.raises(ValueError, match="without lengths"):
        group_moments([], [], cap=CAP)


@settings(deadline=None)
@given(
    observed=st.lists(st.integers(1, CAP), max_size=16),
    censored=st.lists(st.integers(0, CAP), max_size=16),
    past=st.none() | st.tuples(st.floats(0, 9), st.floats(0.02, 3)),
    random=st.randoms(use_true_random=False),
)
def test_any_group_has_moments_within_its_bounds_whatever_its_order(observed, censored, past, random):
    if not observed and not censored:
        return
    before = None if past is None else LogMoments(past[0], past[0] ** 2 + past[1] ** 2)
    weight = 1.0 if past is None else 0.3
    moments = group_moments(observed, censored, cap=CAP, past=before, weight=weight)
    least = sum(observed) + sum(censored)
    assert least / (len(observed) + len(censored)) <= moments.mean * (1 + 1e-9)
    assert moments.mean <= CAP * (1 + 1e-9)
    assert moments.mean**2 <= moments.second * (1 + 1e-9) <= CAP**2 * (1 + 1e-6)
    random.shuffle(observed)
    random.shuffle(censored)
    again = group_moments(observed, censored, cap=CAP, past=before, weight=weight)
    assert again.mean == pytest.approx(moments.mean, rel=1e-9)
    assert math.isfinite(again.log.mean) and math.isfinite(again.log.sigma)


def test_running_averages_by_hand():
    statistics = LengthStatistics(0.3, CAP)
    assert statistics.profile("p", "s") is None
    statistics.observe("p", "s", 0, seen(10, 20))
    assert statistics.profile("p", "s") is None  # not before the step is over
    assert statistics.commit() == 1
    first = statistics.profile("p", "s")
    assert (first.mean, first.std) == (15, 5)
    statistics.observe("p", "s", 1, seen(30, 30))
    statistics.commit()
    second = statistics.profile("p", "s")
    assert second.mean == pytest.approx(0.7 * 15 + 0.3 * 30)
    assert second.std == pytest.approx(math.sqrt(0.7 * 250 + 0.3 * 900 - 19.5**2))
    assert second.log_mean == pytest.approx(0.7 * math.log(200) / 2 + 0.3 * math.log(30))


def test_signals_by_hand():
    profile = LengthProfile(mean=100, std=30, log_mean=math.log(90), log_sigma=0.5)
    assert [profile.signal(name, 16, CAP) for name in ("std", "mean", "mean_2std")] == [30, 100, 160]
    # Blom: the largest of 16 lies at the quantile (16 - 0.375) / 16.25 = 0.9615, 1.769 deviations out.
    assert profile.signal("max", 16, CAP) == pytest.approx(90 * math.exp(0.5 * 1.7688), rel=1e-3)
    assert profile.signal("max", 16, 150) == 150


def test_what_was_never_seen_shrinks_to_its_stratum_and_then_to_all():
    statistics = LengthStatistics(0.3, CAP)
    for index, tokens in enumerate((100, 100, 100, 100)):
        statistics.observe(f"easy{index}", "easy", index, seen(tokens, tokens))
    for index in range(12):
        statistics.observe(f"hard{index}", "hard", 10 + index, seen(900, 900))
    statistics.commit()
    everyone = (4 * 100 + 12 * 900) / 16
    assert statistics.profile("new", "unheard of").mean == pytest.approx(everyone)
    assert STRATUM_WEIGHT == 4
    assert statistics.profile("new", "easy").mean == pytest.approx((100 + everyone) / 2)
    assert statistics.profile("new", "hard").mean == pytest.approx((12 * 900 + 4 * everyone) / 16)
    assert statistics.profile("easy0", "easy").mean == 100


def test_the_order_of_outcomes_within_a_step_does_not_matter_and_states_answer_the_same():
    groups = [("b", 3, seen(40, 50)), ("a", 2, seen(10) + cut(30)), ("a", 1, seen(700, 20)), ("b", 4, cut(9))]
    answers = []
    for order in (groups, groups[::-1]):
        statistics = LengthStatistics(0.3, CAP)
        for prompt, group, lengths in order:
            statistics.observe(prompt, "s", group, lengths)
        statistics.commit()
        answers.append(statistics)
    assert answers[0].to_state() == answers[1].to_state()
    restored = LengthStatistics.from_state(answers[0].to_state())
    for statistics in (answers[0], restored):
        statistics.observe("c", "s", 5, seen(5, 900) + cut(77, 77))
        statistics.observe("a", "s", 6, cut(77, 77))
        statistics.commit()
    assert restored.to_state() == answers[0].to_state()
    assert restored.profile("d", "s") == answers[0].profile("d", "s")
    with pytest.raises(ValueError, match="not a state"):
        LengthStatistics.from_state({"prompts": {}})


def test_profiles_are_spread_over_all_known_prompts():
    statistics = LengthStatistics(0.3, CAP)
    for index in range(10):
        statistics.observe(f"p{index}", "s", index, seen(index + 1, index + 1))
    statistics.commit()
    assert [profile.mean for profile in statistics.profiles(5)] == [1, 3, 5, 7, 9]
    assert len(statistics.profiles(64)) == 10
    assert LengthStatistics(0.3, CAP).profiles(4) == []


def _pruned(lengths: np.ndarray, rule: str, rng: np.random.Generator) -> list[ObservedLength]:
    """What a rule leaves of 16 lengths: 8 shortest, or 7 shortest and one of the others."""
    order = np.argsort(lengths, kind="stable")
    short = 8 if rule == "shortest" else 7
    kept = order[:short].tolist() + ([] if rule == "shortest" else [int(rng.choice(order[short:]))])
    settled = int(lengths[order[short - 1]])
    return [ObservedLength(int(lengths[i]), False) for i in kept] + cut(*[settled] * (16 - len(kept)))


@pytest.mark.parametrize("rule", ["shortest", "survivor"])
@pytest.mark.parametrize("sigma", [0.2, 0.88], ids=["trained", "heavy"])
def test_a_prompt_that_is_always_pruned_keeps_its_signal(rule, sigma):
    rng = np.random.default_rng(7)
    num_prompts, num_groups = 120, 10
    means = rng.normal(6.69, 0.43, num_prompts)
    spreads = sigma * np.exp(rng.normal(0, 0.35, num_prompts))  # measured: median 0.2 with p90 0.34, 0.88 with 1.54
    whole, pruned, naive = (LengthStatistics(0.3, CAP) for _ in range(3))
    for group in range(num_groups):
        for prompt in range(num_prompts):
            draws = np.exp(means[prompt] + spreads[prompt] * rng.standard_normal(16))
            lengths = np.clip(np.round(draws), 1, CAP).astype(int)
            left = _pruned(lengths, rule, rng)
            whole.observe(str(prompt), "s", group, seen(*lengths.tolist()))
            pruned.observe(str(prompt), "s", group, left)
            naive.observe(str(prompt), "s", group, [length for length in left if not length.censored])
        for statistics in (whole, pruned, naive):
            statistics.commit()
        for signal in SIGNALS:
            true, kept, blind = (
                np.mean([s.profile(str(p), "s").signal(signal, 16, CAP) for p in range(num_prompts)])
                for s in (whole, pruned, naive)
            )
            assert 0.9 < kept / true < 1.1, (signal, group)
            if group > 2 and signal == "std":
                assert blind / true < 0.9  # without the censored ones the signal is lost
