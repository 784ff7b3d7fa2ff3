"""A deterministic stand-in for an inference engine: no model, the same contract.

Responses come from `sim_response` and are known in advance; this file only plays them back in time, with the
engine's limits: at most `max_num_seqs` at once, all in step, outputs every `stream_interval` tokens, weights swapped
between two steps. Timers of the event loop drive it; nothing polls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from darts_async.config import Config
from darts_async.engines.base import EngineOutput, FinishReason
from darts_async.engines.sim_response import SimParams, SimResponse, sample_response
from darts_async.errors import EngineDead, RolloutError
from darts_async.messages import RolloutRequest, VersionSpan


class _Playback:
    """One request: how far its response has been played, and by which versions."""

    def __init__(self, response: SimResponse, start: int = 0) -> None:
        self.response = response
        self.start = start
        """Tokens that it began with."""
        self.num_tokens = start
        self.spans: list[VersionSpan] = []
        self.ended: FinishReason | RolloutError | EngineDead | None = None
        self.news = asyncio.Event()

    def advance(self, num_tokens: int, version: int) -> int:
        """Play up to `num_tokens` more under a version; return how many there were."""
        length, fails_at = self.response.tokens.size, self.response.fails_at
        end = min(self.num_tokens + num_tokens, length if fails_at is None else fails_at)
        played = end - self.num_tokens
        if played and (not self.spans or self.spans[-1].version != version):
            self.spans.append(VersionSpan(version, self.num_tokens - self.start))
        self.num_tokens = end
        if end == fails_at:
            self.end(RolloutError("failed on purpose (fail_share)"))
        elif end == length:
            self.end("length" if self.response.capped else "stop")
        self.news.set()
        return played

    def end(self, how: FinishReason | RolloutError | EngineDead) -> None:
        """End it, once."""
        if self.ended is None:
            self.ended = how
        self.news.set()

    def output(self, start: int) -> EngineOutput:
        """Return what came after token `start`."""
        reason = self.ended if isinstance(self.ended, str) else None
        return EngineOutput(
            token_ids=self.response.tokens[start : self.num_tokens].tolist(),
            logprobs=self.response.logprobs[start : self.num_tokens].tolist(),
            finish_reason=reason,
            version_spans=tuple(self.spans) if reason else (),
        )


class SimEngine:
    """Plays responses back. Its methods belong to one event loop."""

    def __init__(self, config: Config, rank: int) -> None:
        self._params = SimParams.parse(config.generator.engine_args)
        self._max_running = config.generator.max_num_seqs
        self._interval = config.generator.stream_interval
        self._rank = rank
        self._version = 0
        self._all: dict[int, _Playback] = {}
        self._waiting: deque[_Playback] = deque()
        self._running: list[_Playback] = []
        self._timer: asyncio.TimerHandle | None = None
        self._updating = asyncio.Lock()
        self._num_tokens = 0
        self._dead = asyncio.Event()
        self._open = False

    @property
    def version(self) -> int:
        """The policy version that tokens are attributed to."""
        return self._version

    @property
    def num_unfinished(self) -> int:
        """Requests whose stream has not ended."""
        return len(self._all)

    async def start(self) -> None:
        """Nothing to load."""
        self._open = True

    async def generate(self, request: RolloutRequest, prefix: Sequence[int] = ()) -> AsyncGenerator[EngineOutput, None]:
        """Play one response; see `RolloutEngine.generate`."""
        self._check_alive()
        candidate = request.candidate_id
        if candidate in self._all:
            raise RolloutError(f"candidate {candidate} is running already")
        response = sample_response(self._params, request)
        if response.tokens[: len(prefix)].tolist() != list(prefix):
            raise RolloutError(f"candidate {candidate} never had the {len(prefix)} tokens it is to go on with")
        playback = self._all[candidate] = _Playback(response, len(prefix))
        self._waiting.append(playback)
        self._schedule()
        start = playback.start
        try:
            while True:
                await playback.news.wait()
                playback.news.clear()
                if isinstance(playback.ended, Exception):
                    raise playback.ended
                output = playback.output(start)
                start = playback.num_tokens
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            playback.end("abort")
            del self._all[candidate]

    async def abort(self, candidate_ids: Sequence[int]) -> None:
        """End these now; see `RolloutEngine.abort`."""
        self._check_alive()
        for candidate in candidate_ids:
            if candidate in self._all:
                self._all[candidate].end("abort")

    async def update_weights(self, version: int, weights: str) -> None:  # noqa: ARG002 - there is no model
        """Attribute tokens to `version` from the next step on; the file is not looked at."""
        async with self._updating:
            self._check_alive()
            if version <= self._version:
                return
            if self._params.update_s:
                self._cancel_timer()
                try:
                    await asyncio.sleep(self._params.update_s)
                finally:
                    self._schedule(resuming=True)
            self._version = version

    async def wait_dead(self) -> None:
        """Return after `dies_after_tokens`."""
        await self._dead.wait()

    async def close(self) -> None:
        """End everything that runs."""
        self._open = False
        self._stop(EngineDead("the engine was closed"))

    def _check_alive(self) -> None:
        if self._dead.is_set():
            raise EngineDead(f"the engine died after {self._params.dies_after_tokens} tokens (dies_after_tokens)")
        if not self._open:
            raise EngineDead("the engine is not running")

    def _schedule(self, *, resuming: bool = False) -> None:
        """Have the next step run in time, unless one is due already or an update holds everything up."""
        held_up = self._updating.locked() and not resuming and bool(self._params.update_s)
        if self._timer is None and not held_up and self._open and (self._waiting or self._running):
            delay_s = self._params.token_s * self._interval
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._step)

    def _step(self) -> None:
        self._timer = None
        self._running = [playback for playback in self._running if playback.ended is None]
        while self._waiting and len(self._running) < self._max_running:
            playback = self._waiting.popleft()
            if playback.ended is None:
                self._running.append(playback)
        for playback in self._running:
            self._num_tokens += playback.advance(self._interval, self._version)
        if 0 < self._params.dies_after_tokens <= self._num_tokens:
            self._dead.set()
            self._stop(EngineDead(f"died on purpose after {self._num_tokens} tokens (dies_after_tokens)"))
            return
        self._running = [playback for playback in self._running if playback.ended is None]
        self._schedule()

    def _stop(self, reason: EngineDead) -> None:
        self._cancel_timer()
        self._waiting.clear()
        self._running.clear()
        for playback in self._all.values():
            playback.end(reason)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
