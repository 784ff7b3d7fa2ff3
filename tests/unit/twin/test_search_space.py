"""What is tuned, which settings are on the front, and which one is recommended."""

from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.config import load_config
from darts_async.errors import ConfigError
from darts_async.twin.figures import Figures, mean_of
from darts_async.twin.profile import EngineProfile, LearnerProfile, Profile, Twin, read_twin
from darts_async.twin.search_space import (
    DEFAULT_KNOBS,
    KNOBS,
    Range,
    Trial,
    finalists,
    front,
    knobs_for,
    overrides,
    recommend,
)

_numbers = count()
MACHINE = Profile(
    name="four",
    source="made up",
    devices=4,
    engine=EngineProfile(token_s=((1, 0.01),)),
    learner=LearnerProfile(token_s=1e-4, step_s=1.0),
)


def trial(rate: float, staleness: float = 0.0, wasted: float = 0.0) -> Trial:
    figures = Figures(
        tokens_per_s=rate,
        staleness=staleness,
        wasted=wasted,
        step_s=1.0,
        generator_idle=0.0,
        learner_idle=0.0,
        cancelled=0.0,
    )
    return Trial(number=next(_numbers), settings={"run.seed": str(next(_numbers))}, figures=figures)


FAILED = Trial(number=-1, settings={}, figures=None, reason="no")


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25))
def test_nothing_on_the_front_is_beaten_and_all_else_is(objectives: list[tuple[int, int, int]]):
    trials = [trial(*map(float, values)) for values in objectives]
    best = {
        (t.figures.tokens_per_s, t.figures.staleness, t.figures.wasted) for t in front([*trials, FAILED]) if t.figures
    }

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and a[0] >= b[0] and a[1] <= b[1] and a[2] <= b[2]

    every = {tuple(map(float, values)) for values in objectives}
    assert best == {one for one in every if not any(beats(other, one) for other in every)}


def test_the_least_wasteful_of_those_nearly_as_fast():
    slow, fast, lean = trial(50.0, 0.0, 0.0), trial(100.0, 2.0, 0.5), trial(98.0, 2.0, 0.2)
    chosen, why = recommend([slow, fast, lean, FAILED]) or (None, "")
    assert chosen is lean and "2 settings" in why and "20%" in why


def test_figures_of_many_runs_are_trusted_more_than_lucky_ones():
    lucky, slow = trial(120.0), trial(90.0)
    sure = msgspec.structs.replace(trial(100.0), runs=3)
    chosen, _ = recommend([lucky, sure, slow]) or (None, "")
    assert chosen is sure


def test_finalists_are_the_fastest_that_are_allowed_each_setting_once():
    trials = [trial(50.0), trial(100.0, 3.0), trial(80.0, 0.5), trial(70.0, 0.9), FAILED]
    again = msgspec.structs.replace(trials[2], number=99)
    assert finalists([*trials, again], 2, max_staleness=1.0) == [again, trials[3]]
    assert [one.figures.tokens_per_s for one in finalists(trials, 9) if one.figures] == [100.0, 80.0, 70.0, 50.0]


def test_the_mean_of_runs_by_hand():
    runs = [trial(100.0, 1.0, 0.5).figures, trial(300.0, 2.0, 0.0).figures]
    mean = mean_of([run for run in runs if run is not None])
    assert (mean.tokens_per_s, mean.staleness, mean.wasted, mean.step_s) == (200.0, 1.5, 0.25, 1.0)


def test_a_limit_of_staleness():
    fresh, stale = trial(50.0, 0.4), trial(100.0, 2.0)
    chosen, why = recommend([fresh, stale], max_staleness=1.0) or (None, "")
    assert chosen is fresh and "at most 1" in why
    assert recommend([stale], max_staleness=1.0) is None
    assert recommend([FAILED]) is None


def test_every_knob_is_a_key_that_loads():
    base = load_config("darts_best")
    for name in KNOBS:
        (knob,) = knobs_for(base, [name], MACHINE)
        values = [str(knob.low), str(knob.high)] if isinstance(knob, Range) else list(knob.values)
        for value in values:
            config = load_config("darts_best", overrides(base, {knob.key: value}))
            section, _, field = knob.key.partition(".")
            found = getattr(getattr(config, section), field)
            assert found == (value if isinstance(found, str) else int(value))


def test_what_makes_no_sense_is_refused():
    config = load_config("darts_best")
    with pytest.raises(ConfigError, match="is no knob"):
        knobs_for(config, ["depth"], MACHINE)
    with pytest.raises(ConfigError, match="something to split"):
        knobs_for(config, ["split"], msgspec.structs.replace(MACHINE, devices=0))
    with pytest.raises(ConfigError, match="fixed by"):
        knobs_for(load_config("grpo_sync"), ["eta"], MACHINE)
    assert len(knobs_for(config, [*DEFAULT_KNOBS, "eta"], MACHINE)) == len(DEFAULT_KNOBS)


def test_the_learner_has_what_the_replicas_leave():
    twin = Twin(MACHINE)
    assert twin.learner_for(4, colocated=True) == MACHINE.learner
    assert twin.learner_for(3, colocated=False).token_s == pytest.approx(4e-4)
    assert twin.learner_for(2, colocated=False).step_s == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="none is left"):
        twin.learner_for(4, colocated=False)


def test_a_profile_that_extends_another_differs_in_its_own_keys_alone():
    plain, shaped = read_twin("gpu_14b").profile, read_twin("gpu_14b_shaped").profile
    workload = msgspec.structs.replace(plain.workload, shaping=0.25)
    assert shaped == msgspec.structs.replace(plain, name=shaped.name, source=shaped.source, workload=workload)


@pytest.mark.parametrize("base", ["../gpu_14b.toml", 7])
def test_a_profile_extends_a_file_beside_it_only(tmp_path, base):
    (tmp_path / "own.toml").write_text(f"extends = {base!r}\n")
    with pytest.raises(ConfigError, match="no file beside it"):
        read_twin(str(tmp_path / "own.toml"))
