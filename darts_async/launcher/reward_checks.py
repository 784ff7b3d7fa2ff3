"""Whether responses can be scored, found out before anything starts.

Reward functions are loaded here. Somebody's own code is also tried in a real reward worker, with the first training
prompt and its own answer as the response: what raises then, hangs or returns NaN would do so for every candidate.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import numpy as np

from darts_async.config.import_path import is_import_path
from darts_async.config.paths import model_folder
from darts_async.config.reward_rules import OWN_VERIFIER
from darts_async.errors import ConfigError, RunFailed
from darts_async.runtime.reward_pool import RewardFailed, RewardPool, reward_setup
from darts_async.runtime.reward_scoring import Scoring
from darts_async.tasks.chat import ChatTokenizer

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.tasks.base import Prompt, Task

__all__ = ["check_rewards"]


def check_rewards(config: Config, task: Task) -> None:
    """Load the reward functions, and try those of the user's. Raises `ConfigError`."""
    setup = reward_setup(config)
    Scoring(task, setup.functions).close()
    key, name = _own_code(config)
    prompts = task.train_prompts()
    if not key or not len(prompts):
        return
    failures: list[ConfigError] = []

    def run() -> None:
        asyncio.run(_try(config, prompts[0], key, name, failures))

    # In a thread: whoever starts runs from Python may have an event loop of their own here.
    thread = threading.Thread(target=run, name="reward trial")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _own_code(config: Config) -> tuple[str, str]:
    """Key and import path of the first function or task that is not built in; empty if there is none."""
    for index, function in enumerate(config.reward.functions):
        if is_import_path(function.name):
            return f"reward.functions[{index}].name", function.name
    used = not config.reward.functions or any(one.name == OWN_VERIFIER for one in config.reward.functions)
    if is_import_path(config.task.name) and used:
        return "task.name", config.task.name
    return "", ""


async def _try(config: Config, prompt: Prompt, key: str, name: str, failures: list[ConfigError]) -> None:
    tokens = ChatTokenizer(model_folder(config)).encode(prompt.answer or prompt.content)
    pool = RewardPool(reward_setup(config), workers=1, timeout_s=config.reward.timeout_s)
    what = f"prompt {prompt.prompt_id!r} with the response {(prompt.answer or prompt.content)[:60]!r}"
    try:
        async with asyncio.TaskGroup() as tasks:
            try:
                await pool.start(tasks)
                await pool.score(prompt.prompt_id, np.asarray(tokens, dtype=np.int32))
            except RewardFailed as failed:
                failures.append(ConfigError(key, name, f"fails on {what}: {failed}", "Mend the function."))
            finally:
                await pool.close()
    except* RunFailed as errors:
        failures.append(ConfigError(key, name, str(errors.exceptions[0]), "Mend the function."))
