"""What may be another value when a run goes on, and what may not: each with a reason."""

import pytest

from darts_async.config import Config, load_config
from darts_async.config.between_starts import MAY_CHANGE, config_of_next_start
from darts_async.config.live import LIVE
from darts_async.errors import ConfigError

_OTHER = {
    "run.steps": "70",
    "queues.ready_groups": "5",
    "reward.timeout_s": "3.5",
    "generator.replicas": "2",
    "launch.max_restarts": "9",
    "launch.bind": "tcp://127.0.0.1:5900",
    "learner.max_parity_diff": "0.5",
    "checkpoint.keep": "7",
    "allocation.budget": "9.5",
    "run.max_wall_s": "90",
}


def _refused(config: Config, *overrides: tuple[str, str], steps_done: int = 10) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config_of_next_start(config, overrides, steps_done=steps_done)
    return caught.value


def test_settings_that_may_change_do_one_by_one_and_together():
    config = load_config(None)
    for key, text in _OTHER.items():
        changed = config_of_next_start(config, [(key, text)], steps_done=10)
        section, _, name = key.partition(".")
        assert str(getattr(getattr(changed, section), name)).removesuffix(".0") == text
    assert set(LIVE) <= set(MAY_CHANGE)
    together = config_of_next_start(config, list(_OTHER.items()), steps_done=10)
    assert (together.run.steps, together.generator.replicas, together.run.max_wall_s) == (70, 2, 90.0)


def test_nothing_given_is_the_config_as_it_was():
    config = load_config("darts_best")
    assert config_of_next_start(config, [], steps_done=3) == config


def test_a_limit_is_taken_away():
    config = load_config(None, [("run.max_wall_s", "5")])
    assert config_of_next_start(config, [("run.max_wall_s", "none")], steps_done=1).run.max_wall_s is None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("run.seed", "3"),
        ("run.name", "other"),
        ("group.size", "4"),
        ("selection.rule", "shortest"),
        ("learner.lr", "1e-6"),
        ("task.params.operations", "[1, 2]"),
        ("generator.engine", "sim"),
        ("pipeline.mode", "one_step_off"),
        ("eval.every_steps", "3"),
        ("checkpoint.optimiser", "false"),
    ],
)
def test_what_the_steps_so_far_were_made_of_stays(key: str, text: str):
    error = _refused(load_config(None, [("pipeline.max_staleness", "1")]), (key, text))
    assert error.key.split(".")[:2] == key.split(".")[:2]
    assert "cannot change in a run that goes on (it was " in error.rule
    assert "run.steps" in error.fix and "launch.*" in error.fix


def test_a_setting_that_is_given_as_it_was_changes_nothing():
    config = load_config(None)
    assert config_of_next_start(config, [("group.size", "8"), ("run.seed", "0")], steps_done=1) == config


def test_steps_are_not_taken_back_and_a_schedule_is_not_stretched():
    config = load_config(None)
    assert "has made 10 steps" in _refused(config, ("run.steps", "9")).rule
    assert config_of_next_start(config, [("run.steps", "10")], steps_done=10).run.steps == 10
    falling = load_config(None, [("learner.lr_schedule", "linear")])
    error = _refused(falling, ("run.steps", "80"))
    assert (error.key, error.value) == ("run.steps", "80")
    assert "learner.lr_schedule = 'linear' was laid out for 32 steps" in error.rule


def test_the_result_obeys_the_rules_of_a_config():
    assert _refused(load_config(None), ("launch.bind", "nonsense")).key == "launch.bind"
    assert "unknown key" in _refused(load_config(None), ("launch.binds", "ipc")).rule
