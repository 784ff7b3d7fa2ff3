"""Many requests through one engine, each to its end: for whoever measures and trains nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from darts_async.engines.base import RolloutEngine
from darts_async.engines.response import ResponseBuffer
from darts_async.errors import EngineDead, RolloutError
from darts_async.messages import RolloutRequest, Trajectory

__all__ = ["Sampled", "sample_all"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One request and what became of it."""

    request: RolloutRequest
    trajectory: Trajectory | None
    error: str = ""
    """Why there is no trajectory."""


async def sample_all(
    engine: RolloutEngine,
    requests: Sequence[RolloutRequest],
    *,
    at_once: int,
    done: Callable[[Sampled], None] | None = None,
) -> list[Sampled]:
    """Sample them, `at_once` at a time; return the outcomes in the order of the requests.

    done: called with each as it ends. Cancelling this ends what runs in the engine. Raises `EngineDead`.
    """
    outcomes: list[Sampled | None] = [None] * len(requests)
    waiting = iter(enumerate(requests))

    async def work() -> None:
        for index, request in waiting:
            outcomes[index] = outcome = await _sample(engine, request)
            if done is not None:
                done(outcome)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(at_once, len(requests))):
                tasks.create_task(work())
    except* EngineDead as dead:
        raise EngineDead(str(dead.exceptions[0])) from dead
    return [outcome for outcome in outcomes if outcome is not None]


async def _sample(engine: RolloutEngine, request: RolloutRequest) -> Sampled:
    buffer = ResponseBuffer()
    try:
        async with contextlib.aclosing(engine.generate(request)) as outputs:
            async for output in outputs:
                buffer.extend(output)
        return Sampled(request, buffer.trajectory(request.candidate_id, 0))
    except RolloutError as error:
        return Sampled(request, None, str(error))
