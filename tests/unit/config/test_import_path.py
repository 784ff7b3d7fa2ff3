"""Loading a function of the user's: real files, and one clear error for everything that can be wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from darts_async.config.import_path import find_module, load_function
from darts_async.errors import ConfigError


def _refused(value: str, *parameters: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_function("learner.advantage", value, parameters or ("rewards", "baseline_rewards"))
    assert (caught.value.key, caught.value.value) == ("learner.advantage", value)
    return caught.value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_imported_once_for_all_its_functions(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "mine.py").write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass\nclass Seen:\n    calls: int = 0\n\n"
        "seen = Seen()\n\n"
        "def first(a, b):\n    seen.calls += 1\n    return seen.calls\n\n"
        "def second(a, b):\n    return first(a, b)\n"
    )
    first = load_function("key", "sub/mine.py:first", ("a", "b"))
    second = load_function("key", f"{folder}/sub/mine.py:second", ("a", "b"))
    assert (first(0, 0), second(0, 0)) == (1, 2)


def test_a_module_beside_the_config_is_found_whatever_the_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "darts_try_package").mkdir()
    (folder / "darts_try_package" / "own.py").write_text("def one(a):\n    return a + 1\n")
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(folder))])
    before = list(sys.path)
    find_module("key", "darts_try_package.own:one")
    assert load_function("key", "darts_try_package.own:one", ("a",))(2) == 3
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "name", "rule"),
    [
        ("x = 1\n", "absent", "`absent` is not there"),
        ("x = 1\n", "x", "`x` is no function"),
        ("def f(rewards):\n    return rewards\n", "f", "cannot be called as f(rewards, baseline_rewards)"),
        ("def f(a, b, c):\n    return a\n", "f", "cannot be called as"),
        ("def f(:\n", "f", "SyntaxError"),
        ("import darts_no_such_module\n", "f", "ModuleNotFoundError"),
        ("1 / 0\n", "f", "line 1"),
        ("raise SystemExit(3)\n", "f", "SystemExit"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(folder: Path, source: str, name: str, rule: str) -> None:
    file = folder / "wrong.py"
    file.write_text(source)
    assert rule in _refused(f"wrong.py:{name}").rule
    assert rule in _refused(f"wrong.py:{name}").rule  # a file that failed is not taken for loaded


def test_what_is_not_there_is_said_without_importing(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        find_module("learner.loss", "nowhere.py:loss")
    with pytest.raises(ConfigError, match="there is no module"):
        find_module("learner.loss", "darts_no_such_module.losses:loss")
    (folder / "loud.py").write_text("raise RuntimeError('imported')\n")
    find_module("learner.loss", "loud.py:loss")
    find_module("learner.loss", "loud:loss")
