"""Live settings: each can be changed, nothing else can, and a change obeys the rules that `up` keeps."""

import pytest

from darts_async.config import Config, load_config
from darts_async.config.live import LIVE, change, parse_assignments, value_of, with_values
from darts_async.errors import ConfigError

_CHANGES = {
    "queues.in_flight_groups": ("7", 7),
    "queues.oversample_groups": ("2", 2),
    "queues.min_chunk": ("3", 3),
    "allocation.budget": ("9.5", 9.5),
    "pipeline.max_staleness": ("4", 4),
    "run.max_wall_s": ("90", 90.0),
    "run.max_trained_tokens": ("1000000", 1_000_000),
    "checkpoint.every_steps": ("3", 3),
    "checkpoint.recovery_steps": ("4", 4),
    "launch.stall_s": ("12.5", 12.5),
}


def _refusal(*assignments: tuple[str, str], preset: str | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        change(load_config(preset), assignments)
    return caught.value


def test_every_live_setting_can_be_changed_by_itself_and_all_at_once():
    config = load_config(None)
    assert set(_CHANGES) == set(LIVE)
    for key, (text, value) in _CHANGES.items():
        changed, changes = change(config, [(key, text)])
        assert changes == {key: (value_of(config, key), value)}
        assert value_of(changed, key) == value
        assert with_values(config, {key: value}) == changed  # what a role goes on with is what was checked
    changed, changes = change(config, [(key, text) for key, (text, _) in _CHANGES.items()])
    assert {key: new for key, (_, new) in changes.items()} == {key: value for key, (_, value) in _CHANGES.items()}
    assert with_values(config, {key: new for key, (_, new) in changes.items()}) == changed


def _keys() -> list[str]:
    config = load_config(None)
    return [
        f"{section}.{name}" for section in Config.model_fields for name in type(getattr(config, section)).model_fields
    ]


@pytest.mark.parametrize("key", [key for key in _keys() if key not in LIVE])
def test_every_other_setting_is_refused_with_a_reason(key):
    error = _refusal((key, "1"))
    assert error.key == key
    assert "cannot change while the run goes on: it " in error.rule
    assert "is fixed at the start" not in error.rule  # each section has a reason of its own
    assert all(live in error.fix for live in LIVE)


@pytest.mark.parametrize("key", ["queues.in_flight", "nothing.at_all", "queues", "", "learner.lr.x"])
def test_what_is_no_setting(key):
    error = _refusal((key, "1"))
    assert ("no such setting" in error.rule) != (key == "learner.lr.x")


@pytest.mark.parametrize(
    ("key", "text", "preset", "said"),
    [
        ("pipeline.max_staleness", "0", None, "async"),
        ("pipeline.max_staleness", "2", "grpo_sync", "sync"),
        ("allocation.budget", "2", None, "allocation.min"),
        ("queues.in_flight_groups", "0", None, "greater than or equal to 1"),
        ("queues.in_flight_groups", "many", None, "integer"),
        ("launch.stall_s", "-1", None, "greater"),
    ],
)
def test_a_change_keeps_the_rules_of_a_start(key, text, preset, said):
    assert said in str(_refusal((key, text), preset=preset))


def test_one_bad_wish_spoils_all():
    config = load_config(None)
    with pytest.raises(ConfigError):
        change(config, [("queues.in_flight_groups", "7"), ("group.size", "4")])
    assert config == load_config(None)


def test_no_limit_and_no_change():
    config = load_config(None, [("run.max_wall_s", "60")])
    changed, changes = change(config, [("run.max_wall_s", "none"), ("launch.stall_s", str(config.launch.stall_s))])
    assert changed.run.max_wall_s is None
    assert changes == {"run.max_wall_s": (60.0, None)}
    assert change(changed, [("run.max_wall_s", "none")]) == (changed, {})


def test_assignments_are_words_with_one_equals_sign_or_more():
    assert parse_assignments(["a.b=1", " c.d = x=y "]) == [("a.b", "1"), ("c.d", "x=y")]
    for word in ("a.b", "=1", "a.b=", ""):
        with pytest.raises(ConfigError):
            parse_assignments([word])
