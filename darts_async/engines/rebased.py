"""Many runs on one engine: an engine that is lent to a run as if it had just been started.

An engine's policy version only goes up, a run's begins at 0. `rebase` loads the original weights as the engine's next
version and from then on presents that one as version 0, in updates and in version spans. Invariant: no request spans
two runs, so no span is older than the base.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec

from darts_async.engines.base import EngineOutput, RolloutEngine
from darts_async.engines.weights_file import weight_files
from darts_async.errors import ConfigError, EngineDead, ProtocolError
from darts_async.messages import RolloutRequest, VersionSpan
from darts_async.metrics import BusyClock


def original_weights(folder: Path) -> Path:
    """Return what an engine updates to for a model folder's weights: its one file, or the folder where there are more.

    Raises `ConfigError` when it has none.
    """
    try:
        files = weight_files(folder)
    except ProtocolError as error:
        fix = "Save the model with `save_pretrained` (safetensors format)."
        raise ConfigError("model.path", str(folder), str(error), fix) from None
    return files[0] if len(files) == 1 else folder


class RebasedEngine:
    """A `RolloutEngine` for one run after another. Whoever made the engine inside starts and closes it."""

    def __init__(self, engine: RolloutEngine, weights: Path) -> None:
        """`weights`: the policy that every run begins with, one safetensors file or a model folder."""
        self._engine = engine
        self._weights = weights
        self._base = 0
        self._running: set[int] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.clock = BusyClock()
        """How long at least one request of the run has been running."""

    async def rebase(self, weights: Path | None = None) -> None:
        """Begin a new run: these weights (the original ones) are version 0. Raises what `update_weights` raises."""
        base = self._engine.version + 1
        await self._engine.update_weights(base, str(weights or self._weights))
        self._base = base
        self.clock = BusyClock()

    async def settle(self, limit_s: float) -> None:
        """End what a run left behind. Raises `EngineDead` when something stays."""
        await self._engine.abort(list(self._running))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        if self._running or self._engine.num_unfinished:
            left = max(len(self._running), self._engine.num_unfinished)
            raise EngineDead(f"{left} requests did not end within {limit_s:g} s of the end of their run")

    @property
    def version(self) -> int:
        """The run's policy version that the engine serves."""
        return self._engine.version - self._base

    @property
    def num_unfinished(self) -> int:
        """Requests whose stream has not ended."""
        return self._engine.num_unfinished

    async def start(self) -> None:
        """Nothing: the engine runs."""

    async def generate(self, request: RolloutRequest, prefix: Sequence[int] = ()) -> AsyncGenerator[EngineOutput, None]:
        """Sample one response; see `RolloutEngine.generate`."""
        self._running.add(request.candidate_id)
        self._idle.clear()
        self.clock.change(+1)
        try:
            async with contextlib.aclosing(self._engine.generate(request, prefix)) as outputs:
                async for output in outputs:
                    yield self._shifted(output)
        finally:
            self.clock.change(-1)
            self._running.discard(request.candidate_id)
            if not self._running:
                self._idle.set()

    async def abort(self, candidate_ids: Sequence[int]) -> None:
        """End these requests now; see `RolloutEngine.abort`."""
        await self._engine.abort(candidate_ids)

    async def update_weights(self, version: int, weights: str) -> None:
        """Serve the run's `version`; see `RolloutEngine.update_weights`."""
        await self._engine.update_weights(self._base + version, weights)

    async def wait_dead(self) -> None:
        """Return when the engine has died."""
        await self._engine.wait_dead()

    async def close(self) -> None:
        """Nothing: the next run goes on with it."""

    def _shifted(self, output: EngineOutput) -> EngineOutput:
        spans = tuple(VersionSpan(span.version - self._base, span.start) for span in output.version_spans)
        return msgspec.structs.replace(output, version_spans=spans) if spans else output
