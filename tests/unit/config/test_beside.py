"""Files beside a config are found from anywhere; those of the working directory come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from darts_async.config import load_config

CONFIG = """
[task]
name = "mine.py:Task"
params = {{ path = {path}, held_out = "nowhere.jsonl", prompt = "data.jsonl" }}

[[reward.functions]]
name = "mine.py:reward"

[[reward.functions]]
name = "exact_match"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config with its files, in another folder than the working directory."""
    folder, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "data.jsonl").touch()
    (folder / "mine.py").touch()
    monkeypatch.chdir(elsewhere)
    path = folder / "own.toml"
    path.write_text(CONFIG.format(path='"data.jsonl"'))
    return path


def test_what_lies_beside_the_config_is_found(config: Path) -> None:
    found = load_config(str(config))
    folder = config.parent
    assert found.task.name == f"{folder}/mine.py:Task"
    assert found.task.params == {
        "path": str(folder / "data.jsonl"),
        "held_out": "nowhere.jsonl",
        "prompt": "data.jsonl",
    }
    assert [one.name for one in found.reward.functions] == [f"{folder}/mine.py:reward", "exact_match"]


def test_the_working_directory_comes_first(config: Path) -> None:
    Path("data.jsonl").touch()
    Path("mine.py").touch()
    found = load_config(str(config))
    assert (found.task.name, found.task.params["path"]) == ("mine.py:Task", "data.jsonl")


def test_lists_patterns_and_configs_that_extend_it(config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG.format(path='["data.jsonl", "*.jsonl", "absent.jsonl"]'))
    child = tmp_path / "child.toml"
    child.write_text('extends = "own/own.toml"\n[run]\nsteps = 3\n')
    folder = config.parent
    assert load_config(str(child)).task.params["path"] == [
        str(folder / "data.jsonl"),
        str(folder / "*.jsonl"),
        "absent.jsonl",
    ]


def test_words_are_no_paths(config: Path) -> None:
    (config.parent / "quickstart").mkdir()
    (config.parent / "model").mkdir()
    for given, found in (("quickstart", "quickstart"), ("model", str(config.parent / "model"))):
        config.write_text(f'[model]\npath = "{given}"\n')
        assert load_config(str(config)).model.path == found


def test_an_override_is_from_the_working_directory(config: Path) -> None:
    assert load_config(str(config), [("task.params.path", "data.jsonl")]).task.params["path"] == "data.jsonl"
