"""Rewards that hang, raise, kill their process or are no numbers, among many that are fine: through a whole run.

A run in this process over in-memory links, with the real selector, the real pool of reward processes, the simulated
engine, and a trainer that only counts. Asked for: every fine response gets the reward that the task gives it; every
other one costs its candidate, which fails with its own reason in the metrics; none is lost; no process is left; the
run goes on to its steps, and the time is bounded: a fault costs its own worker a deadline and a restart, nobody else
anything.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

from actors.local import LocalRun
from darts_async.config import Config, load_config
from darts_async.config.paths import QUICKSTART_POLICY, RunPaths
from darts_async.engines.token_sums import TokenSums
from darts_async.messages import Finished, Message, StepMetrics, TrainGroup
from darts_async.runtime.reward_pool import RewardFailed, RewardPool, Scored
from darts_async.runtime.reward_worker import Setup
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer
from soaks.odd_reward import SHARE, fault_of
from soaks.result import Result, Row

REASONS = {"hang": "timeout", "raise": "raised", "die": "died", "nan": "not_finite"}
"""What the pool has to say of each fault."""
_WORKER = Path(__file__).with_name("odd_reward.py")
_START_SLACK = 2.0
"""A start takes longer while others are under way than it took alone, at the pool's own start."""
_REWARD_S = 0.02
"""For a response to be sampled, scored and booked by the one process that does all that here."""


class _WitnessPool(RewardPool):
    """The real pool; it remembers what came of every call."""

    def __init__(self, *args: Any, progressed: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[tuple[str, tuple[int, ...], float | str]] = []
        """(prompt id, response, reward or kind of failure)."""
        self.start_s = 0.0
        self._progressed = progressed

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        began = time.monotonic()
        await super().start(tasks)
        self.start_s = time.monotonic() - began

    async def score(self, prompt_id: str, tokens: np.ndarray) -> Scored:
        outcome: float | str = "lost"
        try:
            scored = await super().score(prompt_id, tokens)
        except RewardFailed as failed:
            outcome = failed.kind
            raise
        else:
            outcome = scored.reward
        finally:
            self.calls.append((prompt_id, tuple(tokens.tolist()), outcome))
            self._progressed()
        return scored


@dataclass
class _Stats:
    """What the learner reads of a finished step."""

    version: int
    skipped: bool = False
    grad_norm: float = 0.0
    lr: float = 0.0
    sums: TokenSums = field(default_factory=TokenSums)
    observed: dict[str, float] = field(default_factory=dict)


class _CountingTrainer:
    """Learns nothing: the learner is not what is soaked here."""

    def __init__(self) -> None:
        self.version = 0
        self.num_groups = 0

    def accumulate(self, groups: list[TrainGroup]) -> TokenSums:
        self.num_groups += len(groups)
        return TokenSums()

    def apply_step(self) -> _Stats:
        self.version += 1
        return _Stats(self.version)

    def abandon(self) -> None:
        pass

    def publish(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True)


@dataclass
class RewardSoak:
    """What a soak did and found."""

    workers: int
    timeout_s: float
    rewards: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """By kind, as the responses called for them."""
    start_s: float = 0.0
    """The pool's start: all workers at once."""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """Results that are not what the response called for."""
    scored: int = 0
    in_metrics: dict[str, float] = field(default_factory=dict)
    """Failures by reason, as the last step's metrics have them."""
    in_summary: dict[str, float] = field(default_factory=dict)
    restarts: int = 0
    processes_left: int = 0
    groups: int = 0

    @property
    def bound_s(self) -> float:
        """Longest time it may take: what the faults cost their workers, shared among the workers, and the last one's
        deadline and restart on top.
        """
        hangs, deaths = self.faults["hang"], self.faults["die"]
        start_s = _START_SLACK * self.start_s
        work_s = hangs * self.timeout_s + (hangs + deaths) * start_s
        return work_s / self.workers + self.rewards * _REWARD_S + self.timeout_s + start_s

    @property
    def problems(self) -> list[str]:
        """Empty when nothing is lost, nothing is wrong, nothing is left, and all was in time."""
        found = list(self.wrong[:10])
        if self.scored != self.rewards - self.faults.total():
            found.append(f"{self.scored} of {self.rewards - self.faults.total()} fine responses were scored")
        expected = {f"failed/reward_{REASONS[kind]}": float(count) for kind, count in self.faults.items()}
        for where, told in (("the summary", self.in_summary), ("the metrics", self.in_metrics)):
            if told != expected:
                found.append(f"{where} tells of {told}, not of {expected}")
        if self.processes_left:
            found.append(f"{self.processes_left} processes are left")
        if self.seconds > self.bound_s:
            found.append(f"it took {self.seconds:.1f} s, above the bound of {self.bound_s:.1f} s")
        return found


def soak_rewards(
    folder: Path,
    *,
    steps: int,
    workers: int,
    timeout_s: float,
    progressed: Callable[[], None] = lambda: None,
) -> RewardSoak:
    """Run `steps` steps of 40 responses, each of which is scored; some more are, in the place of those that fail."""
    settings = {
        "run.dir": str(folder),
        "run.name": "rewards",
        "run.steps": str(steps),
        "group.groups_per_step": "5",
        "selection.rule": "all",
        "allocation.budget": "8",
        "generator.engine": "sim",
        "generator.engine_args.token_s": "0.0005",
        "eval.prompts": "0",
        "checkpoint.every_steps": "1000",
        "checkpoint.recovery_steps": "1000",
        "reward.workers": str(workers),
        "reward.timeout_s": str(timeout_s),
    }
    shutil.rmtree(folder / "rewards", ignore_errors=True)
    config = load_config(None, list(settings.items()))
    RunPaths.of(config).root.mkdir(parents=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_soak(config, workers, timeout_s, progressed))


async def _soak(config: Config, workers: int, timeout_s: float, progressed: Callable[[], None]) -> RewardSoak:
    before = _children()
    setup = Setup(task="chain_arithmetic", params={}, model_folder=str(QUICKSTART_POLICY))
    command = (sys.executable, str(_WORKER))
    pool = _WitnessPool(setup, workers=workers, timeout_s=timeout_s, command=command, progressed=progressed)
    reports: list[Message] = []
    trainer = _CountingTrainer()
    began = time.monotonic()
    await LocalRun(config, reports.append).run(trainer=trainer, pool=pool)
    soak = RewardSoak(workers, timeout_s, start_s=pool.start_s, groups=trainer.num_groups)
    soak.seconds = time.monotonic() - began - pool.start_s
    soak.restarts = pool.num_started - workers
    soak.processes_left = len(_children() - before)
    _judge(soak, pool)
    for report in reports:
        if isinstance(report, StepMetrics):
            soak.in_metrics |= _failures(report.values)
        elif isinstance(report, Finished) and report.role == "selector":
            soak.in_summary = _failures(report.summary)
    return soak


def _judge(soak: RewardSoak, pool: _WitnessPool) -> None:
    """Compare every outcome with what the response called for."""
    task, chat = load_task("chain_arithmetic", {}), ChatTokenizer(QUICKSTART_POLICY)
    prompts = {prompt.prompt_id: prompt for prompt in task.train_prompts()}
    for prompt_id, tokens, outcome in pool.calls:
        if outcome == "closed":
            continue  # the run was over: nobody waits for it
        soak.rewards += 1
        fault = fault_of(prompt_id, tokens)
        soak.faults[fault] += bool(fault)
        expected = REASONS[fault] if fault else task.reward(prompts[prompt_id], chat.decode(list(tokens)))
        if outcome != expected:
            soak.wrong.append(f"a response of {prompt_id}: {outcome}, not {expected}")
        elif not fault:
            soak.scored += 1
    del soak.faults[""]


def _failures(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith("failed/")}


def _children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def run(*, quick: bool, folder: Path, said: Callable[[str], None]) -> Result:
    """The soak, with more than 1,000 rewards unless it is to be quick."""
    count = 0

    def progressed() -> None:
        nonlocal count
        count += 1
        if count % (50 if quick else 200) == 0:
            said(f"{count} rewards")

    steps, timeout_s = (3, 0.3) if quick else (26, 1.0)
    soak = soak_rewards(folder, steps=steps, workers=4, timeout_s=timeout_s, progressed=progressed)
    planted = ", ".join(f"{soak.faults[kind]} {word}" for kind, word in _WORDS.items())
    row = Row(
        fault=f"rewards that hang, raise, kill their process or are no numbers ({SHARE:.0%} each)",
        times=soak.faults.total(),
        outcome=f"of {soak.rewards:,} rewards {soak.scored:,} scored, {planted}: each failed with its reason, none "
        f"lost; {soak.seconds:.0f} s with {soak.workers} workers (bound {soak.bound_s:.0f} s)",
    )
    figures = {
        "rewards": soak.rewards,
        "scored": soak.scored,
        "faults": dict(soak.faults),
        "failures_in_metrics": soak.in_metrics,
        "worker_restarts": soak.restarts,
        "timeout_s": soak.timeout_s,
        "bound_s": soak.bound_s,
        "groups_trained": soak.groups,
    }
    return Result("rewards", [row], soak.seconds, soak.problems, quick, figures)


_WORDS = {"hang": "hung", "raise": "raised", "die": "died", "nan": "not finite"}
