"""Measures a policy on the held-out prompts of a config: `python -m actors.evaluate --plan FILE`.

One engine samples, the reward pool scores each response as it ends. Nothing is cancelled, selected or trained: every
prompt gets the same number of samples, and each runs to its end or to the cap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from darts_async.algorithms.held_out import ScoredSample, by_stratum, summarise
from darts_async.algorithms.seeding import rollout_seed
from darts_async.config import Config, load_config
from darts_async.engines import make_rollout_engine
from darts_async.engines.base import RolloutEngine
from darts_async.engines.sampling import Sampled, sample_all
from darts_async.errors import DartsError
from darts_async.messages import RolloutRequest
from darts_async.runtime.job import Tell, main, unless_stopping
from darts_async.runtime.job_events import Failure, HeldOutScores, JobEvent, Progressed, Stage, encode
from darts_async.runtime.job_plans import EvalPlan
from darts_async.runtime.reward_pool import RewardFailed, RewardPool, reward_setup
from darts_async.tasks.prompt_set import TokenizedPrompt, load_prompts


class Evaluation:
    """One pass over the held-out prompts on an engine that somebody has started."""

    def __init__(self, config: Config, engine: RolloutEngine, tell: Callable[[JobEvent], None]) -> None:
        self._config = config
        self._engine = engine
        self._tell = tell
        self._prompts: dict[int, TokenizedPrompt] = {}
        self._num_done = 0
        self._first_failure = ""

    async def run(self, prompts: Sequence[TokenizedPrompt]) -> None:
        """Sample, score, tell the result. Raises `EngineDead`, and `RunFailed` when the task cannot be loaded."""
        config = self._config
        requests = [
            RolloutRequest(
                candidate_id=(number := 1 + index * config.eval.samples + sample),
                prompt_tokens=prompt.tokens,
                seed=rollout_seed(config.run.seed, prompt.prompt_id, number),
                max_response_tokens=config.model.max_response_tokens,
                min_policy_version=0,
            )
            for index, prompt in enumerate(prompts)
            for sample in range(config.eval.samples)
        ]
        self._prompts = {
            request.candidate_id: prompts[index // config.eval.samples] for index, request in enumerate(requests)
        }
        pool = RewardPool(reward_setup(config), workers=config.reward.workers, timeout_s=config.reward.timeout_s)
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            try:
                self._tell(Stage(f"sampling {config.eval.samples} responses to each of {len(prompts)} prompts"))
                self._tell(Progressed(0, len(requests)))
                await self._measure(requests, pool)
            finally:
                await pool.close()

    async def _measure(self, requests: Sequence[RolloutRequest], pool: RewardPool) -> None:
        began = time.monotonic()
        scoring: list[asyncio.Task[ScoredSample]] = []

        def score(sampled: Sampled) -> None:
            scoring.append(asyncio.create_task(self._score(sampled, pool, len(requests))))

        try:
            await sample_all(self._engine, requests, at_once=self._config.generator.max_num_seqs, done=score)
            samples = await asyncio.gather(*scoring)
        finally:
            for task in scoring:
                task.cancel()
        wall_s = time.monotonic() - began
        self._tell(
            HeldOutScores(
                total=summarise(samples),
                strata=by_stratum(samples),
                tokens_per_s=sum(sample.length for sample in samples) / max(wall_s, 1e-9),
                first_failure=self._first_failure,
            )
        )

    async def _score(self, sampled: Sampled, pool: RewardPool, total: int) -> ScoredSample:
        prompt = self._prompts[sampled.request.candidate_id]
        reward: float | None = None
        length, capped = 0, False
        if sampled.trajectory is None:
            self._failed(sampled.error)
        else:
            length = sampled.trajectory.response_tokens.size
            capped = sampled.trajectory.finish_reason == "length"
            try:
                reward = (await pool.score(prompt.prompt_id, sampled.trajectory.response_tokens)).reward
            except RewardFailed as error:
                self._failed(f"reward: {error}")
        self._num_done += 1
        self._tell(Progressed(self._num_done, total))
        return ScoredSample(prompt.prompt_id, prompt.stratum, reward, length, capped)

    def _failed(self, why: str) -> None:
        self._first_failure = self._first_failure or why[:1000]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _work(plan: bytes, tell: Tell, stopping: asyncio.Event) -> None:
    order = msgspec.json.decode(plan, type=EvalPlan)
    config = load_config(order.config)
    if order.greedy:
        # A training config cannot have this temperature (its log-probs would say nothing); a measurement can.
        config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"temperature": 0.0})})

    def say(event: JobEvent) -> None:
        tell(encode(event))

    engine = make_rollout_engine(config, 0)
    say(Stage("starting the engine"))
    began = time.monotonic()
    try:
        if not await unless_stopping(stopping, engine.start()):
            return
        say(Stage(f"the engine is ready after {time.monotonic() - began:.0f} s"))
        await unless_stopping(stopping, Evaluation(config, engine, say).run(load_prompts(config).held_out))
    except* DartsError as errors:
        say(Failure(str(_first(errors))))
        raise
    finally:
        await engine.close()


if __name__ == "__main__":
    main("Measures a policy on held-out prompts", _work)
