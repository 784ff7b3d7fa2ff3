"""Weighted sums of reward functions, plain and async; what fails says which function and where."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.errors import ConfigError
from darts_async.runtime.reward_scoring import RewardError, RewardFunction, Scored, Scoring
from darts_async.tasks import load_task

SOURCE = """
import asyncio
import numpy as np

def half(prompt, response, scale=1.0): return 0.5 * scale
def only_long(prompt, response): return response.num_tokens if response.num_tokens > 3 else None
def right(prompt, response): return np.float32(response == prompt.answer)
class Bonus:
    def __init__(self, word): self.word = word
    def __call__(self, prompt, response): return self.word in response
async def slow(prompt, response):
    await asyncio.sleep(0.2)
    return len(response)
async def fails(prompt, response):
    await asyncio.sleep(0)
    raise LookupError("no judge")

def nan(prompt, response): return float("nan")
def boom(prompt, response): return 1 / 0
def text(prompt, response): return "1.0"
def three(prompt, response, extra): return 0.0
not_callable = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the module."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)


TASK = load_task("chain_arithmetic", {})
PROMPT = TASK.train_prompts()[0]


def function(name: str, weight: float = 1.0, label: str = "", **params: Any) -> RewardFunction:
    name = name if name in {"task", "maths", "format"} else f"mine.py:{name}"
    return RewardFunction(name=name, label=label or name.rpartition(":")[2], weight=weight, params=params)


def score(*functions: RewardFunction, text: str = "", num_tokens: int = 2) -> Scored:
    with Scoring(TASK, functions) as scoring:
        return scoring.score(PROMPT, text, num_tokens)


def test_without_functions_it_is_the_tasks_own_verifier() -> None:
    assert score(text=f"#### {PROMPT.answer}") == (1.0, {})
    assert score(text="####") == (0.0, {})


def test_the_reward_is_the_weighted_sum_of_what_applies() -> None:
    functions = (
        function("task"),
        function("half", 2.0, scale=3.0),
        function("half", -0.5, "plain"),
        function("only_long", 0.25),
        function("right", 7.0),
        function("Bonus", 0.125, word="####"),
    )
    scored = score(*functions, text=f"#### {PROMPT.answer}")
    assert scored.components == {"task": 1.0, "half": 1.5, "plain": 0.5, "right": 0.0, "Bonus": 1.0}
    assert scored.reward == 1.0 + 3.0 - 0.25 + 0.125
    scored = score(function("only_long", 0.25), text="x", num_tokens=8)
    assert scored == (2.0, {"only_long": 8.0})


def test_async_functions_of_a_response_run_at_the_same_time() -> None:
    with Scoring(TASK, [function("slow", label=str(i)) for i in range(8)]) as scoring:
        scoring.score(PROMPT, "warm", 1)
        began = time.monotonic()
        assert scoring.score(PROMPT, "four", 1).reward == 32.0
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("nan", "not_finite", "reward function `nan`: the reward is nan"),
        ("boom", "raised", r"`boom`: ZeroDivisionError: division by zero \(.*mine\.py, line 19\)"),
        ("fails", "raised", r"`fails`: LookupError: no judge \(.*mine\.py, line 16\)"),
        ("text", "raised", "`text`: returned a str, not a number"),
        ("only_long", "raised", "no reward function applies"),
    ],
)
def test_what_fails_says_which_function_and_where(name: str, kind: str, text: str) -> None:
    with pytest.raises(RewardError, match=text) as caught:
        score(function(name))
    assert caught.value.kind == kind


def test_a_sum_that_overflows_is_no_score() -> None:
    with pytest.raises(RewardError, match="weighted sum"):
        score(*(function("half", 1.7e308, str(i), scale=2.0) for i in range(3)))


def test_a_function_that_raises_leaves_no_async_one_behind() -> None:
    with pytest.raises(RewardError, match="boom"):
        score(function("slow"), function("boom"))


@pytest.mark.parametrize(
    ("given", "key", "rule"),
    [
        (function("half", scala=1.0), "reward.functions[0].params", "does not take these parameters"),
        (function("three"), "reward.functions[0].name", "cannot be called with a prompt and a response"),
        (function("not_callable"), "reward.functions[0].name", "is no function"),
        (function("absent"), "reward.functions[0].name", "is not there"),
        (function("Bonus"), "reward.functions[0].params", "missing a required argument: 'word'"),
        (function("task", x=1), "reward.functions[0].params", "takes none here"),
        (function("format"), "reward.functions[0].params.pattern", "is needed"),
    ],
)
def test_what_cannot_be_loaded_is_a_config_error(given: RewardFunction, key: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        score(given)
    assert caught.value.key == key


def test_a_task_without_a_reward_needs_functions(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text("def rows():\n    return [('a', '1'), ('b', '2')]\n")
    task = load_task("rows.py:rows", {})
    with pytest.raises(ConfigError, match=r"has no method `reward\(self, prompt, response\)`"):
        Scoring(task, [])
    Scoring(task, [function("half")]).close()


def test_a_worker_of_the_quickstart_loads_nothing_heavy() -> None:
    code = (
        "import sys; from darts_async.runtime.reward_worker import Setup, task_scorer;"
        f"task_scorer(Setup(task='chain_arithmetic', params={{}}, model_folder={str(QUICKSTART_POLICY)!r}));"
        "print([name for name in ('asyncio', 'numpy', 'pydantic', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
