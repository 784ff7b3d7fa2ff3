"""Holds engine and learner against each other before a run: `python -m actors.doctor --plan FILE`.

The engine samples a few prompts as a run would; the learner scores the same tokens; then the learner publishes its
weights, the engine loads them as it would after a step, and both are compared again. What is found goes out as checks,
faults included; this process fails only when it cannot find anything out. Nothing is trained and nothing is written
but the published weights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import numpy as np

from darts_async.algorithms.parity import MEAN_LIMITS, ScoredResponse, compare, fit_temperature, precision_of
from darts_async.algorithms.seeding import rollout_seed
from darts_async.config import Config, load_config
from darts_async.config.paths import RunPaths, model_folder
from darts_async.engines import make_rollout_engine
from darts_async.engines.base import RolloutEngine
from darts_async.engines.sampling import Sampled, sample_all
from darts_async.errors import ConfigError, EngineDead, ProtocolError
from darts_async.messages import RolloutRequest
from darts_async.runtime.job import Tell, main, unless_stopping
from darts_async.runtime.job_events import Check, JobEvent, Progressed, Stage, encode
from darts_async.runtime.job_plans import DoctorPlan
from darts_async.runtime.parity_checks import ends_check, parity_check
from darts_async.tasks.chat import ChatTokenizer
from darts_async.tasks.prompt_set import TokenizedPrompt, load_prompts

if TYPE_CHECKING:
    from darts_async.engines.learner_scores import LearnerScores

_Result = TypeVar("_Result")
_MAX_TOKENS: Final = 512
"""Longest sample: agreement shows in a few hundred tokens or not at all."""


class Doctor:
    """One examination of one engine, which somebody has started."""

    def __init__(self, config: Config, engine: RolloutEngine, tell: Callable[[JobEvent], None]) -> None:
        self._config = config
        self._engine = engine
        self._tell = tell
        self._cap = min(config.model.max_response_tokens, _MAX_TOKENS)
        self._limit = MEAN_LIMITS[precision_of(config)]
        self._torch = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")

    async def examine(self, prompts: Sequence[TokenizedPrompt], published: Path | None) -> None:
        """Tell every check. published: where the learner may publish its weights; None leaves the swap out.

        Raises `EngineDead` when the engine is lost on the way.
        """
        try:
            samples = await self._sample(prompts, first_id=1)
            eos_ids = ChatTokenizer(model_folder(self._config)).eos_token_ids
            whole = [sample.trajectory for sample in samples if sample.trajectory is not None]
            failures = [sample.error for sample in samples if sample.trajectory is None]
            self._tell(ends_check(whole, failures, eos_ids, self._cap))
            self._tell(Stage("loading the learner's model"))
            scores = await self._on_torch(_load, self._config)
            await self._compare("log-probs", scores, samples)
            if published is not None:
                await self._after_an_update(scores, prompts, published)
            self._check_gpu(scores)
        finally:
            self._torch.shutdown(wait=False, cancel_futures=True)

    async def _after_an_update(
        self, scores: LearnerScores, prompts: Sequence[TokenizedPrompt], published: Path
    ) -> None:
        name = "log-probs after a weight update"
        self._tell(Stage("publishing the learner's weights to the engine"))
        began = time.monotonic()
        try:
            await self._on_torch(scores.publish, published)
            await self._engine.update_weights(self._engine.version + 1, str(published))
        except (EngineDead, ProtocolError, OSError) as error:
            self._tell(Check(name, "fail", str(error), "Weights cannot be swapped; the log has the whole story."))
            if isinstance(error, EngineDead):
                raise
            return
        wall_ms = 1e3 * (time.monotonic() - began)
        samples = await self._sample(prompts, first_id=1 + len(prompts))
        await self._compare(name, scores, samples, f"; published and swapped in {wall_ms:.0f} ms")

    async def _sample(self, prompts: Sequence[TokenizedPrompt], first_id: int) -> list[Sampled]:
        requests = [
            RolloutRequest(
                candidate_id=number,
                prompt_tokens=prompt.tokens,
                seed=rollout_seed(self._config.run.seed, prompt.prompt_id, number),
                max_response_tokens=self._cap,
                min_policy_version=0,
            )
            for number, prompt in enumerate(prompts, first_id)
        ]
        num_done = 0

        def one_more(_: Sampled) -> None:
            nonlocal num_done
            num_done += 1
            self._tell(Progressed(num_done, len(requests)))

        self._tell(Stage(f"sampling {len(requests)} responses"))
        return await sample_all(self._engine, requests, at_once=self._config.generator.max_num_seqs, done=one_more)

    async def _compare(self, name: str, scores: LearnerScores, samples: Sequence[Sampled], more: str = "") -> None:
        good = [sample for sample in samples if sample.trajectory is not None]
        self._tell(Stage("scoring the same tokens with the learner's model"))
        learner = await self._on_torch(scores.score, good)
        pairs = []
        for sample, logprobs in zip(good, learner, strict=True):
            assert sample.trajectory is not None
            stopped = sample.trajectory.finish_reason == "stop"
            pairs.append(ScoredResponse(sample.trajectory.behaviour_logprobs, logprobs, stopped))
        parity = compare(pairs)
        temperature, fit = self._config.sampling.temperature, None
        if good and not parity.within(self._limit):
            self._tell(Stage("looking for a temperature that explains the difference"))
            engine = np.concatenate([pair.engine for pair in pairs])
            fit = await self._on_torch(
                fit_temperature, engine, lambda at: np.concatenate(scores.score(good, at)), temperature
            )
        check = parity_check(name, parity, self._limit, temperature, fit)
        self._tell(msgspec.structs.replace(check, measured=check.measured + more))

    def _check_gpu(self, scores: LearnerScores) -> None:
        memory = scores.memory()
        if memory is None:
            return
        free, total = memory
        text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free with the engine and the learner's weights loaded"
        needed = scores.optimiser_bytes
        text += f"; gradients and optimiser need about {needed / 2**30:.1f}"
        remedy = "Lower gpu_memory_utilization in generator.engine_args, or give the learner a GPU of its own."
        self._tell(Check("GPU memory", "pass" if free > needed else "fail", text, "" if free > needed else remedy))

    async def _on_torch(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._torch, partial(function, *arguments))


def _load(config: Config) -> LearnerScores:
    from darts_async.engines.learner_scores import LearnerScores  # noqa: PLC0415 - seconds of imports

    return LearnerScores(config)


async def _work(plan: bytes, tell: Tell, stopping: asyncio.Event) -> None:
    order = msgspec.json.decode(plan, type=DoctorPlan)
    config = load_config(order.config)

    def say(event: JobEvent) -> None:
        tell(encode(event))

    sets = load_prompts(config)
    prompts = (*sets.held_out, *sets.train)[: order.prompts]
    engine = make_rollout_engine(config, 0)
    say(Stage("starting the engine"))
    began = time.monotonic()
    try:
        try:
            if not await unless_stopping(stopping, engine.start()):
                return
        except (EngineDead, ConfigError) as error:
            say(Check("engine", "fail", str(error), "The log has the whole story."))
            return
        say(Check("engine", "pass", f"serves {model_folder(config)} after {time.monotonic() - began:.0f} s"))
        published = RunPaths.of(config).weights / "doctor.safetensors"
        await unless_stopping(stopping, Doctor(config, engine, say).examine(prompts, published))
    finally:
        await engine.close()


if __name__ == "__main__":
    main("Checks a config against its engine and its learner", _work)
