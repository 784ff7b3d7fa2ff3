"""Somebody's own task by import path: what works, and one clear error for everything that can be wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darts_async.errors import ConfigError
from darts_async.tasks import load_task
from darts_async.tasks.own_task import OwnTask

SOURCE = """
from darts_async.tasks import Prompt

class Sums:
    def __init__(self, top=3):
        self.top = top
    def train_prompts(self):
        return [{"prompt": f"a{i}b+1", "answer": i + 1, "stratum": "s", "hint": [i]} for i in range(self.top)]
    def held_out_prompts(self):
        return [Prompt(prompt_id="mine/1", stratum="t", content="a1b+2", answer="3", before=(("system", "S"),))]
    def reward(self, prompt, response):
        return float(response == prompt.answer)

def rows(num):
    for i in range(num):
        yield f"a{i}", str(i)

class Lacking:
    def reward(self, prompt, response): return 0.0
class Raising:
    def train_prompts(self): return [{"prompt": "a"}, *[1 / 0]]
class Wrong:
    def train_prompts(self): return 5
class Signature:
    def train_prompts(self): return []
    def reward(self, response): return 0.0
class Failing:
    def __init__(self): raise RuntimeError("no licence")
def halfway():
    yield "a", "1"
    raise OSError("disk gone")
def junk(): return [1] * 11
def some_junk(): return [("a", "1"), 1, {"prompt": "b", "answer": "2"}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the module."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own(name: str, **params: Any) -> OwnTask:
    task = load_task(f"mine.py:{name}", params)
    assert isinstance(task, OwnTask)
    return task


def test_a_class_with_prompts_and_a_reward() -> None:
    task = own("Sums", top=4)
    train, (held_out,) = task.train_prompts(), task.held_out_prompts()
    assert [(p.content, p.answer, p.stratum, p.extra) for p in train[:2]] == [
        ("a0b+1", "1", "s", {"hint": [0]}),
        ("a1b+1", "2", "s", {"hint": [1]}),
    ]
    assert len(train) == 4 and task.has_reward
    assert (held_out.content, held_out.before, held_out.stratum) == ("a1b+2", (("system", "S"),), "t")
    assert held_out.prompt_id.startswith("mine_1-") and task.find(held_out.prompt_id) == held_out
    assert (task.reward(train[0], "1"), task.reward(train[0], "2")) == (1.0, 0.0)


def test_a_function_that_yields_pairs_has_one_in_twenty_held_out() -> None:
    task = own("rows", num=400)
    held_out = {prompt.content for prompt in task.held_out_prompts()}
    assert 5 <= len(held_out) <= 45 and len(task.train_prompts()) == 400 - len(held_out)
    assert not task.has_reward


def test_rows_that_are_none_are_told() -> None:
    task = own("some_junk")
    assert task.notes == ("1 of 3 rows cannot be used: prompt 2: a int, not a dict with `prompt` and `answer`",)


@pytest.mark.parametrize(
    ("name", "params", "key", "rule"),
    [
        ("Lacking", {}, "task.name", r"the class lacks `train_prompts\(self\)`"),
        ("Raising", {}, "task.name", r"train_prompts\(\) raised ZeroDivisionError: .*mine\.py, line 21\)"),
        ("Wrong", {}, "task.name", "gives `int` in the place of prompts"),
        ("Signature", {}, "task.name", "`reward` cannot be called so"),
        ("Failing", {}, "task.name", r"raised RuntimeError: no licence \(.*mine\.py, line 28\)"),
        ("halfway", {}, "task.name", r"prompt 2 raised OSError: disk gone \(.*mine\.py, line 31\)"),
        ("junk", {}, "task.params.max_bad_rows", "11 of 11 rows"),
        ("Sums", {"topp": 1}, "task.params", "does not take these parameters"),
        ("rows", {}, "task.params", "missing a required argument: 'num'"),
        ("absent", {}, "task.name", "is not there"),
    ],
)
def test_what_is_wrong_with_it(name: str, params: dict[str, Any], key: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        own(name, **params)
    assert caught.value.key == key
