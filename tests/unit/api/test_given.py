"""A config as Python gives it, and a run's settings as keywords: the same config as a file and a command line give."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.api.given import as_keys, read_given
from darts_async.api.override_text import override_texts
from darts_async.config import Config, load_config
from darts_async.errors import ConfigError


def test_every_form_is_the_config_that_the_command_line_makes(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "quickstart"\n[run]\nsteps = 7\n')
    wanted = load_config("quickstart", [("run.steps", "7"), ("learner.lr", "0.001"), ("group.keep_longest", "2")])
    table = {"extends": "quickstart", "run": {"steps": 7}}
    forms: list[tuple[Any, Mapping[str, Any], Mapping[str, Any]]] = [
        (None, {"run.steps": 7, "learner.lr": 1e-3, "group.keep_longest": 2}, {}),
        ("quickstart", {}, {"run__steps": 7, "learner__lr": 1e-3, "group__keep_longest": 2}),
        (Path(file), {"learner": {"lr": 1e-3}}, {"group": {"keep_longest": 2}}),
        (str(file), {}, {"learner": {"lr": np.float64(1e-3)}, "group__keep_longest": np.int64(2)}),
        (table, {"learner.lr": 1e-3}, {"group": {"keep_longest": 2}}),
    ]
    for source, overrides, settings in forms:
        assert read_given(source, overrides, settings)[0] == wanted
    assert table == {"extends": "quickstart", "run": {"steps": 7}}
    assert read_given(load_config("quickstart"), {"run.steps": 7}, {})[0] == load_config(
        "quickstart", [("run.steps", "7")]
    )


def test_a_run_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "quickstart"\n')
    assert read_given(tmp_path / "mine.toml", {}, {})[1] == "mine"
    assert read_given(None, {}, {})[1] == "quickstart"
    assert read_given("darts_best", {}, {})[1] == "darts_best"
    assert read_given({"extends": "quickstart"}, {}, {})[1] == "python"
    assert read_given(Config(), {}, {})[1] == "python"


def test_a_table_is_laid_over_what_is_there_and_a_list_takes_its_place() -> None:
    engine = {"engine": "sim", "engine_args": {"token_s": 0.5}}
    settings = {"generator": engine, "learner__correction": ("geometric_mask", "tis")}
    config, _ = read_given("quickstart", {"generator.engine_args.fail_share": 0.25}, settings)
    assert config.generator.engine_args == {"token_s": 0.5, "fail_share": 0.25}
    assert config.generator.replicas == load_config("quickstart").generator.replicas
    assert config.learner.correction == ["geometric_mask", "tis"]


@pytest.mark.parametrize(
    ("overrides", "settings", "key", "rule"),
    [
        ({"group.sise": 4}, {}, "group.sise", "unknown key"),
        ({}, {"group__sise": 4}, "group.sise", "unknown key"),
        ({}, {"group": 4}, "group", "is a section"),
        ({"run.steps": 4}, {"run__steps": 5}, "run.steps", "is given twice"),
        ({"run.steps.most": 4}, {}, "run.steps.most", "is a value, not a section"),
        ({"run..steps": 4}, {}, "run..steps", "names no key"),
        ({}, {"run__steps": "7"}, "run.steps", "valid integer"),
    ],
)
def test_what_cannot_be_is_named_by_its_key(
    overrides: dict[str, Any], settings: dict[str, Any], key: str, rule: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read_given("base", overrides, settings)
    assert (refused.value.key, rule in refused.value.rule) == (key, True), refused.value


_values = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1), max_size=3),
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.dictionaries(st.sampled_from(["x", "y"]), _values)))
def test_the_text_of_a_value_is_read_back_as_the_value(tables: dict[str, dict[str, Any]]) -> None:
    texts = dict(override_texts(as_keys(tables, {})))
    flat = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    assert {key: tomllib.loads(f"v = {text}")["v"] for key, text in texts.items()} == flat


def test_text_stays_itself_and_none_unsets() -> None:
    texts = override_texts({"run": {"max_wall_s": None}, "launch.bind": "ipc"})
    assert texts == [("run.max_wall_s", "none"), ("launch.bind", "ipc")]
