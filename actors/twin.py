"""One run on virtual time: the four actors over in-memory links, with a profile's models for all that computes.

The actors, the flow control and the algorithms are the ones of a real run; so are the ledger, the metrics and the
summary, whose times are virtual. Same config, profile and seed: same files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actors.local import LocalRun
from darts_async.algorithms.seeding import stable_hash
from darts_async.bench.cell_record import CellRecord
from darts_async.bench.events import CellStep
from darts_async.config import Config
from darts_async.errors import RunFailed
from darts_async.tasks.prompt_set import PromptSet, TokenizedPrompt
from darts_async.twin import virtual_time
from darts_async.twin.engine import TwinEngine
from darts_async.twin.learner import TwinTrainer
from darts_async.twin.machine import Machine
from darts_async.twin.policy import Policy, score
from darts_async.twin.profile import Profile, Twin
from darts_async.twin.recorded import RecordedWorkload
from darts_async.twin.rewards import TwinRewards
from darts_async.twin.virtual_time import VirtualLoop
from darts_async.twin.workload import Workload

__all__ = ["run_twin"]


def run_twin(
    config: Config,
    twin: Twin,
    tell: Callable[[CellStep], None] = lambda _: None,
    *,
    loop_factory: Callable[[], VirtualLoop] = VirtualLoop,
    encode: bool = False,
) -> dict[str, Any]:
    """Run a config on a profile; return its summary. The run folder exists; files are written as in a real run.

    tell: hears of each step, at once in real time. encode: messages travel as bytes: what they cost is then in the
    processor time, not in the virtual one.

    Raises `RunFailed` when the run does not reach its end.
    """
    return virtual_time.run(lambda: _run(_on_twin(config), twin, tell, encode=encode), loop_factory)


def _on_twin(config: Config) -> Config:
    """Leave out what only a real engine and a real policy have: the engine's arguments, checkpoints."""
    generator = config.generator.model_copy(update={"engine": "sim", "engine_args": {}})
    checkpoint = config.checkpoint.model_copy(update={"every_steps": 0})
    return config.model_copy(update={"generator": generator, "checkpoint": checkpoint})


async def _run(config: Config, twin: Twin, tell: Callable[[CellStep], None], *, encode: bool) -> dict[str, Any]:
    machine, profile = Machine(), twin.profile
    seed = config.run.seed
    policy: Policy = RecordedWorkload(twin.groups, seed) if twin.groups else Workload(profile.workload, seed)
    engines = [TwinEngine(config, profile.engine, policy, machine) for _ in range(config.generator.replicas)]
    learner = twin.learner_for(config.generator.replicas, colocated=config.pipeline.mode == "sync")
    trainer = TwinTrainer(learner, policy, machine)
    pool = TwinRewards(profile.reward, config.reward.workers, score)
    run_id = f"{stable_hash(config.run.name, seed):016x}"
    record = CellRecord(config, tell, machine.decoding)
    run = LocalRun(config, lambda message: record.take(message, run.gauges), encode=encode, run_id=run_id)
    failure: BaseExceptionGroup[Exception] | None = None
    try:
        await run.run(engines=list(engines), trainer=trainer, pool=pool, prompts=prompts_of(config, profile))
    except* RunFailed as failures:
        failure = failures
    summary = record.end("done" if record.complete else "failed")
    record.close()
    if failure is not None:
        raise failure
    return summary


def prompts_of(config: Config, profile: Profile) -> PromptSet:
    """Return a profile's prompts: placeholders, whose first token is their number."""
    workload = profile.workload
    held_out = config.eval.prompts

    def prompt(number: int) -> TokenizedPrompt:
        tokens = np.zeros(workload.prompt_tokens, dtype=np.int32)
        tokens[0] = number
        return TokenizedPrompt(f"prompt-{number}", "all", tokens)

    train = tuple(map(prompt, range(workload.prompts)))
    return PromptSet(train, tuple(map(prompt, range(workload.prompts, workload.prompts + held_out))), 0)
