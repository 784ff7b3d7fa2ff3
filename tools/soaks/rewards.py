"""Rewards that hang, raise, kill their process or are no numbers, among many that are fine.

What it asks for: every fine response gets the reward that the task gives it, every other one fails with its own reason,
none is lost, no process is left, and the time is bounded: a fault costs its own worker a deadline and a restart,
nobody else anything.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from tokenizers import Tokenizer

from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.runtime.reward_pool import RewardFailed, RewardPool
from darts_async.runtime.reward_worker import Setup
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer
from soaks.odd_reward import FAULTS

REASONS = {"hang": "timeout", "raise": "raised", "die": "died", "nan": "not_finite"}
"""What the pool has to say of each fault."""
_WORKER = Path(__file__).with_name("odd_reward.py")
_START_SLACK = 2.0
"""A start takes longer while others are under way than it took alone, at the pool's own start."""


@dataclass
class RewardSoak:
    """What a soak did and found."""

    rewards: int
    workers: int
    timeout_s: float
    faults: Counter[str]
    """Planted, by kind."""
    start_s: float = 0.0
    """The pool's start: all workers at once."""
    seconds: float = 0.0
    scored: int = 0
    wrong: list[str] = field(default_factory=list)
    """Results that are not what was planted."""
    restarts: int = 0
    processes_left: int = 0

    @property
    def bound_s(self) -> float:
        """Longest time it may take: what the faults cost their workers, shared among the workers, and the last one's
        deadline and restart on top. A score takes well under a millisecond; 5 ms stand for it and its two pipes.
        """
        hangs, deaths = self.faults["hang"], self.faults["die"]
        start_s = _START_SLACK * self.start_s
        work_s = hangs * self.timeout_s + (hangs + deaths) * start_s + self.rewards * 0.005
        return work_s / self.workers + self.timeout_s + start_s

    @property
    def ok(self) -> bool:
        """Nothing lost, nothing wrong, nothing left, in time."""
        fine = self.rewards - self.faults.total()
        return not self.wrong and self.scored == fine and not self.processes_left and self.seconds <= self.bound_s


async def soak_rewards(
    *,
    rewards: int = 1000,
    workers: int = 4,
    timeout_s: float = 1.0,
    share: float = 0.05,
    seed: int = 0,
    progressed: Callable[[], None] = lambda: None,
) -> RewardSoak:
    """Score `rewards` responses of the quickstart's task, the given share of them with each kind of fault."""
    rng = random.Random(seed)
    kinds = [kind for kind in FAULTS for _ in range(round(share * rewards))]
    kinds += ["fine"] * (rewards - len(kinds))
    rng.shuffle(kinds)
    responses = _responses(rewards)
    soak = RewardSoak(rewards, workers, timeout_s, Counter(kind for kind in kinds if kind != "fine"))
    before = _children()
    setup = Setup(task="chain_arithmetic", params={}, model_folder=str(QUICKSTART_POLICY))
    pool = RewardPool(setup, workers=workers, timeout_s=timeout_s, command=(sys.executable, str(_WORKER)))

    async def score(kind: str, prompt_id: str, tokens: np.ndarray, expected: float) -> None:
        name = prompt_id if kind == "fine" else f"{kind}/{prompt_id}"
        try:
            reward = await pool.score(name, tokens)
        except RewardFailed as failed:
            if kind == "fine" or failed.kind != REASONS[kind]:
                soak.wrong.append(f"{name}: {failed.kind}: {failed}")
        else:
            soak.scored += 1
            if kind != "fine" or reward != expected:
                soak.wrong.append(f"{name}: scored {reward}, not {expected if kind == 'fine' else REASONS[kind]}")
        progressed()

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        await pool.start(tasks)
        soak.start_s = time.monotonic() - began
        began = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            for kind, response in zip(kinds, responses, strict=True):
                calls.create_task(score(kind, *response))
        soak.seconds = time.monotonic() - began
        soak.restarts = pool.num_started - workers
        await pool.close()
    soak.processes_left = len(_children() - before)
    return soak


def _responses(number: int) -> list[tuple[str, np.ndarray, float]]:
    """(prompt id, response, its reward): right and wrong answers in turn."""
    task, chat = load_task("chain_arithmetic", {}), ChatTokenizer(QUICKSTART_POLICY)
    tokenizer = Tokenizer.from_file(str(QUICKSTART_POLICY / "tokenizer.json"))
    prompts = task.train_prompts()
    found = []
    for index in range(number):
        prompt = prompts[index % len(prompts)]
        text = f"#### {prompt.answer}" if index % 2 else f"#### 1{prompt.answer}"
        tokens = np.array(tokenizer.encode(text).ids, np.int32)
        found.append((prompt.prompt_id, tokens, task.reward(prompt, chat.decode(tokens.tolist()))))
    return found


def _children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}
