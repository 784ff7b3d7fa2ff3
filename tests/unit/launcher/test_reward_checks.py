"""Somebody's own reward is tried before anything starts: in a real reward worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from darts_async.config import load_config
from darts_async.errors import ConfigError
from darts_async.launcher.reward_checks import check_rewards
from darts_async.tasks import load_task

SOURCE = """
import random, time
def fine(prompt, response): return float(prompt.answer in response)
async def boom(prompt, response): return 1 / 0
def hang(prompt, response): time.sleep(3600)
class Moody:
    def train_prompts(self):
        return [(f"a{random.random()}", "1") for _ in range(4)]
    def reward(self, prompt, response):
        return 1.0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the module."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)


def check(*overrides: tuple[str, str]) -> None:
    config = load_config(None, [*overrides, ("reward.timeout_s", "2")])
    check_rewards(config, load_task(config.task.name, config.task.params))


async def test_a_good_one_passes_also_where_an_event_loop_runs() -> None:
    check(("reward.functions", '[{name="task"},{name="mine.py:fine"}]'))
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("override", "key", "rule"),
    [
        (
            ("reward.functions", '[{name="task"},{name="mine.py:boom"}]'),
            "reward.functions[1].name",
            r"mine\.py, line 4\)",
        ),
        (
            ("reward.functions", '[{name="mine.py:hang"}]'),
            "reward.functions[0].name",
            r"no score within reward\.timeout_s",
        ),
        (("task.name", "mine.py:Moody"), "task.name", "it must give the same ones every time"),
    ],
    ids=["raises", "hangs", "moody"],
)
def test_what_would_fail_for_every_candidate_is_refused(override: tuple[str, str], key: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        check(override)
    assert caught.value.key == key
