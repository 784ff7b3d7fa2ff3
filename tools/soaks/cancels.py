"""Requests that are added to the real engine and taken back at every moment of their life.

What it asks for: resident memory of the front end and of the engine's process that does not grow once they are warm,
and nothing that is left of any request afterwards: not in the engine's adapter, not in vLLM's front end, not in its
scheduler, not in the KV cache.

The moments: while the request is being added (vllm#57061 leaked there), while its first tokens are on their way, after
some tokens; by an abort, by cancelling who reads, by both, by closing the stream, by two cancels in a row. A few
requests are refused instead (too long, tokens that do not exist): errors must leave nothing either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from darts_async.errors import RolloutError
from darts_async.messages import RolloutRequest
from soaks.memory import MemoryTrace
from soaks.result import Result, Row

if TYPE_CHECKING:
    from darts_async.engines.vllm_engine import VllmEngine

KINDS = ("abort", "cancel", "both", "cancel twice", "close")
MOMENTS = ("while adding", "after tokens")
REFUSED_SHARE = 0.01
MOST_GROWTH = 0.05
"""Of resident memory, once it is warm."""
SAMPLES = 200
_SETTLE_S = 10.0
_TOO_MANY_TOKENS = 1 << 20


@dataclass
class CancelSoak:
    """What a soak did and found."""

    cancels: int = 0
    """Requests that did not come to their own end."""
    completed: int = 0
    """Requests that ended before they could be taken back."""
    refused: int = 0
    seconds: float = 0.0
    by_kind: Counter[str] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)
    """What is left of requests, by place; all zero when nothing is."""
    memory: MemoryTrace = field(default_factory=lambda: MemoryTrace({}))

    @property
    def rate(self) -> float:
        """Cancels a second."""
        return self.cancels / self.seconds if self.seconds else 0.0


async def soak_cancels(
    engine: VllmEngine,
    prompts: list[np.ndarray],
    *,
    cancels: int,
    in_flight: int,
    seed: int = 0,
    first_candidate: int = 1,
    progressed: Callable[[int], None] = lambda _: None,
) -> CancelSoak:
    """Take back `cancels` requests, `in_flight` at a time; the engine must be started and otherwise idle."""
    soak = CancelSoak(memory=MemoryTrace({"front end": os.getpid(), "engine": _engine_pid()}))
    churn = _Churn(engine, prompts, soak, cancels, random.Random(seed), first_candidate, progressed)
    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(churn.work())
    soak.seconds = time.monotonic() - started
    soak.memory.sample(1.0)
    soak.left = await leftovers(engine)
    return soak


def _engine_pid() -> int:
    pids = [child.pid for child in psutil.Process().children(recursive=True) if "EngineCore" in child.name()]
    if len(pids) != 1:
        raise RuntimeError(f"one engine process was expected below this one, there are {len(pids)}")
    return pids[0]


async def leftovers(engine: VllmEngine) -> dict[str, int]:
    """What is left of requests, by place. Asks the scheduler by a pause that waits for whatever is unfinished there,
    and the KV cache by a reset, which is refused while any block is held.
    """
    llm = engine._llm  # noqa: SLF001 - the soak looks where nobody else has to
    assert llm is not None
    processor = llm.output_processor
    left = {
        "adapter": engine.num_unfinished,
        "request_states": len(processor.request_states),
        "parent_requests": len(processor.parent_requests),
        "external_req_ids": len(processor.external_req_ids),
    }
    try:
        async with asyncio.timeout(_SETTLE_S):
            await llm.pause_generation(mode="wait", clear_cache=False)
        left["scheduler"] = 0
    except TimeoutError:
        left["scheduler"] = 1
    finally:
        await llm.resume_generation()
    left["kv cache"] = 0 if await llm.reset_prefix_cache() else 1
    return left


class _Churn:
    def __init__(
        self,
        engine: VllmEngine,
        prompts: list[np.ndarray],
        soak: CancelSoak,
        cancels: int,
        chance: random.Random,
        first_candidate: int,
        progressed: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._soak = soak
        self._cancels = cancels
        self._chance = chance
        self._next = first_candidate
        self._progressed = progressed
        self._sampled = -1

    async def work(self) -> None:
        """One request after the other until there were enough cancels."""
        soak = self._soak
        while soak.cancels < self._cancels:
            candidate, self._next = self._next, self._next + 1
            if self._chance.random() < REFUSED_SHARE:
                await self._refused(candidate)
                continue
            kind, moment = self._chance.choice(KINDS), self._chance.choice(MOMENTS)
            if await self._taken_back(self._request(candidate), kind, moment):
                soak.cancels += 1
                soak.by_kind[f"{kind} {moment}"] += 1
            else:
                soak.completed += 1
            self._account()

    def _account(self) -> None:
        done = self._soak.cancels
        self._progressed(done)
        if (mark := done * SAMPLES // self._cancels) > self._sampled:
            self._sampled = mark
            self._soak.memory.sample(min(1.0, done / self._cancels))

    def _request(self, candidate: int, tokens: np.ndarray | None = None) -> RolloutRequest:
        prompt = self._prompts[candidate % len(self._prompts)] if tokens is None else tokens
        return RolloutRequest(
            candidate_id=candidate,
            prompt_tokens=np.asarray(prompt, np.int32),
            seed=candidate,
            max_response_tokens=64,
            min_policy_version=0,
        )

    async def _refused(self, candidate: int) -> None:
        """By the adapter (too long), or by vLLM (tokens beyond the vocabulary)."""
        size, token = self._chance.choice(((_TOO_MANY_TOKENS, 5), (4, 1 << 30)))
        with contextlib.suppress(RolloutError):
            async for _ in self._engine.generate(self._request(candidate, np.full(size, token, np.int32))):
                raise AssertionError("a request that cannot be served was served")
            raise AssertionError("a request that cannot be served ended in good order")
        self._soak.refused += 1

    async def _taken_back(self, request: RolloutRequest, kind: str, moment: str) -> bool:
        """Whether it ended before its own end."""
        stop_after = self._chance.randrange(1, 4)
        reached = asyncio.Event()
        closes = kind == "close"
        reading = asyncio.create_task(self._read(request, stop_after, reached, closes=closes))
        if moment == "after tokens":
            await reached.wait()
        else:
            for _ in range(stop_after):
                await asyncio.sleep(0)
        if kind in {"abort", "both"}:
            await self._engine.abort([request.candidate_id])
        if kind in {"cancel", "both", "cancel twice"}:
            reading.cancel()
        if kind == "cancel twice":
            await asyncio.sleep(0)
            reading.cancel()
        (ended,) = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            raise ended
        return ended not in {"stop", "length"}

    async def _read(self, request: RolloutRequest, stop_after: int, reached: asyncio.Event, *, closes: bool) -> str:
        outputs = 0
        try:
            async with contextlib.aclosing(self._engine.generate(request)) as stream:
                async for output in stream:
                    outputs += 1
                    if output.finish_reason is not None:
                        return output.finish_reason
                    if outputs == stop_after:
                        reached.set()
                        if closes:
                            break
        finally:
            reached.set()
        return "closed"


def run(*, quick: bool, folder: Path, said: Callable[[str], None]) -> Result:
    """100,000 cancels of real vLLM on the quickstart's policy; quick: a thousand, too few to judge memory by."""
    del folder  # nothing of it is kept but the figures
    from darts_async.config import load_config  # noqa: PLC0415 - seconds of imports
    from darts_async.engines.vllm_engine import VllmEngine  # noqa: PLC0415
    from darts_async.tasks.prompt_set import load_prompts  # noqa: PLC0415

    # The pages of a large KV pool are touched little by little, which would look like a leak: a small one.
    config = load_config(None, [("generator.engine_args.num_gpu_blocks_override", "256")])
    cancels = 1_000 if quick else 100_000
    told = 0

    def progressed(done: int) -> None:
        nonlocal told
        if done >= told + cancels // 10:
            told = done
            said(f"{done:,} of {cancels:,} cancels")

    async def work() -> CancelSoak:
        engine = VllmEngine(config, 0)
        said("the engine starts")
        await engine.start()
        try:
            prompts = [prompt.tokens for prompt in load_prompts(config).train]
            return await soak_cancels(engine, prompts, cancels=cancels, in_flight=96, progressed=progressed)
        finally:
            await engine.close()

    return _result(asyncio.run(work()), quick=quick)


def _result(soak: CancelSoak, *, quick: bool) -> Result:
    problems = [f"{count} left in {place}" for place, count in soak.left.items() if count]
    growth = {name: soak.memory.growth(name) for name in soak.memory.pids}
    if not quick:
        problems += [f"memory of the {name} grew by {by:.1%}" for name, by in growth.items() if not by < MOST_GROWTH]
    left = sum(soak.left.values())
    row = Row(
        fault="requests cancelled in real vLLM, at every moment of their life",
        times=soak.cancels,
        outcome=f"{left} requests or blocks left over in adapter, front end, scheduler and KV cache; "
        f"{soak.refused:,} refused ones besides; {soak.rate:,.0f} a second",
        memory=", ".join(f"{name} {by:+.1%}" for name, by in growth.items()) + " after warm-up",
    )
    figures = {
        "cancels": soak.cancels,
        "completed": soak.completed,
        "refused": soak.refused,
        "by_kind": dict(soak.by_kind),
        "left": soak.left,
        "growth": growth,
        "last_mib": {name: soak.memory.last_mib(name) for name in soak.memory.pids},
    }
    return Result("cancels", [row], soak.seconds, problems, quick, figures)
