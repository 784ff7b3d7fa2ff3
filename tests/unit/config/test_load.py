"""Config files, overrides, and the one clear error that a mistake gets."""

import tomllib
from pathlib import Path

import pytest

from darts_async.config import builtin_configs, load_config, to_toml
from darts_async.errors import ConfigError


def _error(*overrides: tuple[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return caught.value


def test_quickstart_is_the_default():
    config = load_config(None)
    assert config.selection.rule == "survivor"
    assert config.pipeline.mode == "async"
    assert config.pipeline.max_staleness == 1
    assert config.group.size == 8


@pytest.mark.parametrize("path", sorted(builtin_configs().glob("*.toml")), ids=lambda p: p.stem)
def test_every_builtin_config_loads_by_name_and_by_path(path: Path):
    assert load_config(path.stem) == load_config(str(path))


def test_resolved_config_reads_back_equal(tmp_path: Path):
    config = load_config(None, [("run.name", "x"), ("task.params.seed", "3")])
    written = tmp_path / "config.resolved.toml"
    written.write_text(to_toml(config))
    assert load_config(str(written)) == config


def test_overrides_take_toml_values_and_bare_words():
    config = load_config(
        None, [("run.steps", "7"), ("learner.lr", "1e-5"), ("selection.rule", "shortest"), ("run.name", "7")]
    )
    assert (config.run.steps, config.learner.lr, config.selection.rule, config.run.name) == (7, 1e-5, "shortest", "7")


def test_a_key_that_takes_a_word_or_a_list_takes_both():
    for text, value in (("tis", "tis"), ('["geometric_mask", "tis"]', ["geometric_mask", "tis"])):
        assert load_config(None, [("learner.correction", text)]).learner.correction == value


def test_unknown_key_names_the_nearest():
    error = _error(("group.keep_longets", "1"))
    assert error.key == "group.keep_longets"
    assert "`group.keep_longest`" in error.fix


def test_unknown_section_lists_the_known_ones():
    assert "group" in _error(("grup2.size", "1")).fix


def test_ill_typed_value_names_key_value_and_meaning():
    error = _error(("run.steps", "many"))
    assert (error.key, error.value) == ("run.steps", "many")
    assert "Learner steps" in error.fix


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([("group.keep_longest", "8")], "group.keep_longest"),
        ([("allocation.min", "7")], "allocation.min"),
        ([("allocation.min", "14"), ("allocation.max", "13")], "allocation.min"),
        ([("allocation.budget", "17")], "allocation.budget"),
        ([("allocation.budget", "7.5")], "allocation.budget"),
        ([("selection.rule", "all")], "allocation.budget"),
        ([("allocation.prune_fraction", "0.05")], "allocation.prune_fraction"),
        ([("sampling.top_p", "0.9")], "sampling.top_p"),
        ([("sampling.top_k", "50")], "sampling.top_k"),
        ([("pipeline.mode", "sync"), ("pipeline.max_staleness", "1")], "pipeline.max_staleness"),
        ([("pipeline.max_staleness", "0")], "pipeline.max_staleness"),
        ([("pipeline.unfinished", "resume")], "queues.oversample_groups"),
        ([("pipeline.unfinished", "defer"), ("queues.oversample_groups", "2")], "pipeline.unfinished"),
        (
            [("pipeline.mode", "stream"), ("pipeline.unfinished", "resume"), ("queues.oversample_groups", "2")],
            "pipeline.unfinished",
        ),
        ([("pipeline.unfinished", "resume"), ("queues.oversample_groups", "9")], "queues.oversample_groups"),
        ([("generator.max_num_seqs", "15")], "generator.max_num_seqs"),
        ([("launch.bind", "udp://x")], "launch.bind"),
        ([("launch.bind", "tcp://127.0.0.1:80")], "launch.bind"),
        ([("launch.bind", "tcp://127.0.0.1:65535")], "launch.bind"),
        ([("run.name", "a/b")], "run.name"),
    ],
)
def test_impossible_settings_name_the_key(overrides: list[tuple[str, str]], key: str):
    assert _error(*overrides).key == key


def test_defaults_follow_the_group_size(tmp_path: Path):
    plain = tmp_path / "plain.toml"
    plain.write_text('[group]\nsize = 4\n[selection]\nrule = "survivor"\n')
    allocation = load_config(str(plain)).allocation
    assert (allocation.min, allocation.max, allocation.budget) == (4, 8, 6.0)
    plain.write_text('[group]\nsize = 4\n[selection]\nrule = "all"\n')
    assert load_config(str(plain)).allocation.budget == 4.0


def test_extends_merges_tables_and_finds_builtins(tmp_path: Path):
    (tmp_path / "base.toml").write_text('extends = "quickstart"\n[group]\nsize = 4\nkeep_longest = 2\n')
    (tmp_path / "child.toml").write_text('extends = "base.toml"\n[group]\nkeep_longest = 0\n[allocation]\nbudget = 6\n')
    config = load_config(str(tmp_path / "child.toml"))
    assert (config.group.size, config.group.keep_longest, config.allocation.budget) == (4, 0, 6.0)
    assert config.task.name == "chain_arithmetic"


def test_circular_extends_is_refused(tmp_path: Path):
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(ConfigError, match="circle"):
        load_config(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("text", ["[run\n", "run = 1\n", "\x00"])
def test_broken_files_are_config_errors(tmp_path: Path, text: str):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(str(path))


def test_missing_file_names_the_builtins():
    with pytest.raises(ConfigError, match="quickstart"):
        load_config("nowhere.toml")


def test_every_field_is_documented():
    from darts_async.config import Config

    for name, section in Config.model_fields.items():
        for field_name, field in section.annotation.model_fields.items():
            assert field.description, f"{name}.{field_name} has no documentation"


def test_to_toml_is_toml():
    assert tomllib.loads(to_toml(load_config(None)))["group"]["size"] == 8


def test_min_chunk_is_at_most_a_step():
    assert load_config(None, [("queues.min_chunk", "4"), ("group.groups_per_step", "4")]).queues.min_chunk == 4
    error = _error(("queues.min_chunk", "5"), ("group.groups_per_step", "4"))
    assert error.key == "queues.min_chunk" and "groups_per_step = 4" in str(error)
