"""What is handed in is found again by a process that knows its import path alone, or refused with what to do."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from darts_async.api.given import read_given
from darts_async.api.import_paths import import_path_of
from darts_async.errors import ConfigError

_MODULE = """
import functools

def brief(prompt, response):
    return -len(response)

class Outer:
    class Inner: ...
    def method(self): ...

def maker():
    def inner(): ...
    return inner

made = maker()
anonymous = lambda: 0
bound = Outer().method
partial = functools.partial(brief, None)
renamed = brief
def gone(): ...
kept = gone
del gone
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_rewards_of_a_test.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("own_rewards_of_a_test")
    del sys.modules["own_rewards_of_a_test"]


def test_a_file_by_itself_is_named_by_its_path(own: Any, tmp_path: Path) -> None:
    assert import_path_of("task.name", own.brief) == f"{tmp_path.resolve()}/own_rewards_of_a_test.py:brief"
    assert import_path_of("task.name", own.renamed).endswith(":brief")
    assert import_path_of("task.name", own.Outer).endswith(":Outer")
    config, _ = read_given("quickstart", {}, {"learner__loss": own.brief})
    assert config.learner.loss == import_path_of("learner.loss", own.brief)


@pytest.mark.parametrize("name", ["made", "anonymous", "bound", "kept"])
def test_what_is_not_at_the_top_of_its_module_is_refused(own: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="is not found again as") as refused:
        import_path_of("learner.loss", getattr(own, name))
    assert refused.value.key == "learner.loss"
    with pytest.raises(ConfigError, match="is not found again as `Outer\\.Inner`"):
        import_path_of("learner.loss", own.Outer.Inner)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_what_is_neither_a_value_nor_a_function_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"run.name = .* no function or class"):
        read_given("quickstart", {"run.name": value}, {})


def test_an_installed_module_is_named_by_its_name() -> None:
    assert import_path_of("learner.loss", json.dumps) == "json:dumps"


def test_a_package_is_named_by_its_name_where_the_processes_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "package_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "rewards.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    brief = importlib.import_module("package_of_a_test.rewards").brief
    with pytest.raises(ConfigError, match=f"lies in {tmp_path.resolve()}, where the run's processes do not look"):
        import_path_of("learner.loss", brief)
    monkeypatch.chdir(tmp_path)
    assert import_path_of("learner.loss", brief) == "package_of_a_test.rewards:brief"
    for name in ("package_of_a_test.rewards", "package_of_a_test"):
        del sys.modules[name]


def test_what_the_running_program_defines_is_refused_with_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def mine(): ...\nimport darts_async\ndarts_async.run(learner__loss=mine)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("darts_async.errors.ConfigError: learner.loss = <function mine at ")
    assert "is defined in the program that is running" in last
    assert "%%writefile my_task.py" in last
    assert done.stdout == ""
