"""An inference engine as a model: continuous batching, per-token latency, prefill, a bounded cache, swaps, aborts.

Implements `engines.base.RolloutEngine`. All running candidates gain a token with every decode step, so one counter of
steps serves them all: a candidate that joined at step s and wants n tokens ends at step s + n. Something has to be done
only when a candidate ends, comes, is aborted or preempted, when outputs are due (every `stream_interval` steps), and
when the length of a step changes; in between the counter grows evenly. Cost grows with such events, not with tokens.

Where it differs from vLLM: prefill stops decoding for its whole time instead of sharing steps with it; a preempted
candidate (the last that came) is read again from its first token; tokens that are put out are placeholders, of which
the first says whether the response is correct.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final, TypeVar

from darts_async.config import Config
from darts_async.engines.base import EngineOutput, FinishReason
from darts_async.errors import EngineDead, RolloutError
from darts_async.messages import RolloutRequest, VersionSpan
from darts_async.twin.latency import LatencyCurve
from darts_async.twin.machine import Machine
from darts_async.twin.policy import Policy, encode
from darts_async.twin.profile import EngineProfile

__all__ = ["TwinEngine"]

_PLACEHOLDER: Final = 2
_TOKENS: Final = array("i", [_PLACEHOLDER]) * 4096
_LOGPROBS: Final = array("f", [-1.0]) * 4096
_N = TypeVar("_N", int, float)
_EPSILON: Final = 1e-6
"""Steps by which rounding may be off."""


class _Run:
    """One request."""

    __slots__ = (
        "ended",
        "first_token",
        "joined",
        "length",
        "news",
        "order",
        "prompt_tokens",
        "put_out",
        "running",
        "spanned",
        "spans",
        "start",
        "stay",
        "tokens",
    )

    def __init__(self, order: int, prompt_tokens: int, start: int) -> None:
        self.order = order
        self.prompt_tokens = prompt_tokens
        self.start = start
        """Tokens that it began with."""
        self.tokens = start
        """It had when it last joined."""
        self.put_out = start
        self.spanned = start
        """Tokens whose version is written down."""
        self.joined = 0
        """Step at which it last joined."""
        self.stay = 0
        """How often it joined."""
        self.length = 0
        self.first_token = _PLACEHOLDER
        self.running = False
        self.spans: list[VersionSpan] = []
        self.ended: FinishReason | EngineDead | None = None
        self.news = asyncio.Event()


class TwinEngine:
    """One replica. Its methods belong to one event loop."""

    def __init__(self, config: Config, profile: EngineProfile, policy: Policy, machine: Machine) -> None:
        self._profile = profile
        self._policy = policy
        self._machine = machine
        self._max_running = config.generator.max_num_seqs
        self._interval = config.generator.stream_interval
        self._curve = LatencyCurve(profile.token_s, self._max_running)
        self._version = 0
        self._all: dict[int, _Run] = {}
        self._waiting: deque[_Run] = deque()
        self._running: dict[_Run, None] = {}
        """In the order they joined."""
        self._ends: list[tuple[int, int, int, _Run]] = []
        """Heap: step at which a candidate ends, its order, its stay (an old entry is of an earlier one), itself."""
        self._steps = 0.0
        """Decode steps so far."""
        self._cached = 0.0
        """Tokens in the cache."""
        self._stall_s = 0.0
        """Prefill that decoding waits for."""
        self._settled_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._planning = False
        self._updating = asyncio.Lock()
        self._paused = False
        self._open = False
        self._num_requests = 0
        self.num_preempted = 0

    # --- the contract -------------------------------------------------------------------------------------------------

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
        self._loop = asyncio.get_running_loop()
        self._settled_s = self._loop.time()
        if self._profile.beside_learner != 1.0:  # or every engine is asked whenever the learner begins or ends
            self._machine.listen(self._speed_changes)
        self._open = True

    async def generate(self, request: RolloutRequest, prefix: Sequence[int] = ()) -> AsyncGenerator[EngineOutput, None]:
        """Sample one response; see `RolloutEngine.generate`."""
        self._check_open()
        candidate = request.candidate_id
        if candidate in self._all:
            raise RolloutError(f"candidate {candidate} is running already")
        self._num_requests += 1
        run = self._all[candidate] = _Run(self._num_requests, request.prompt_tokens.size, len(prefix))
        drawn = self._policy.draw(int(request.prompt_tokens[0]), request.seed, self._version)
        run.length = max(min(drawn.length, request.max_response_tokens), len(prefix) + 1)
        run.first_token = encode(drawn)
        capped = drawn.length > request.max_response_tokens
        if self._profile.start_s:
            self._loop.call_later(self._profile.start_s, self._arrive, run)
        else:
            self._arrive(run)
        try:
            while True:
                await run.news.wait()
                run.news.clear()
                if isinstance(run.ended, EngineDead):
                    raise run.ended
                output = self._output(run, capped=capped)
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self._end(run, "abort")
            del self._all[candidate]

    async def abort(self, candidate_ids: Sequence[int]) -> None:
        """End these; see `RolloutEngine.abort`."""
        self._check_open()
        if self._profile.abort_s:
            await asyncio.sleep(self._profile.abort_s)
        for candidate in candidate_ids:
            if (run := self._all.get(candidate)) is not None:
                self._end(run, "abort")

    async def update_weights(self, version: int, weights: str) -> None:  # noqa: ARG002 - there are none
        """Stand still for `update_s`, then attribute tokens to `version`."""
        async with self._updating:
            self._check_open()
            if version <= self._version:
                return
            if self._profile.update_s:
                self._settle()
                self._paused = True
                self._plan()
                try:
                    await asyncio.sleep(self._profile.update_s)
                finally:
                    self._settle()
                    self._paused = False
            self._settle()
            for run in self._running:
                self._close_span(run)
            self._version = version
            self._plan()

    async def wait_dead(self) -> None:
        """Never: it does not die."""
        await self._loop.create_future()

    async def close(self) -> None:
        """End everything that runs."""
        self._open = False
        for run in self._all.values():
            self._end(run, EngineDead("the engine was closed"))
        if self._timer is not None:
            self._timer.cancel()

    def _check_open(self) -> None:
        if not self._open:
            raise EngineDead("the engine is not running")

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def _step_s(self) -> float:
        beside = self._profile.beside_learner if self._machine.learner_computes else 1.0
        return self._curve.at(len(self._running)) * beside

    def _settle(self) -> None:
        """Count the steps that were made since the last time, at the speed that has been the same since."""
        now_s = self._loop.time()
        elapsed_s, self._settled_s = now_s - self._settled_s, now_s
        if self._paused or not self._running:
            return
        stalled_s = min(self._stall_s, elapsed_s)
        self._stall_s -= stalled_s
        steps = (elapsed_s - stalled_s) / self._step_s
        self._steps += steps
        self._cached += steps * len(self._running)

    def _speed_changes(self) -> None:
        if self._open:
            self._settle()
            self._plan_soon()

    def _plan_soon(self) -> None:
        """Once for all that happens at this moment."""
        if not self._planning:
            self._planning = True
            self._loop.call_soon(self._plan_now)

    def _plan_now(self) -> None:
        self._planning = False
        if self._open:
            self._settle()
            self._plan()

    def _plan(self) -> None:
        """Let in who fits, and set the timer for what happens next. Everything is settled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._paused:
            return
        self._admit()
        if not self._running:
            return
        next_output = (math.floor((self._steps + _EPSILON) / self._interval) + 1) * self._interval
        until = min(next_output, self._next_end(), self._overflow())
        delay_s = self._stall_s + max(0.0, until - self._steps) * self._step_s
        self._timer = self._loop.call_later(delay_s, self._step)

    def _step(self) -> None:
        """Something is due: ends, outputs, or more tokens than the cache holds."""
        self._timer = None
        self._settle()
        nearest = round(self._steps)
        if abs(self._steps - nearest) < 1e-4:
            self._steps = float(nearest)  # what rounding has added up
        while self._ends and self._ends[0][0] <= self._steps + _EPSILON:
            _, _, stay, run = heapq.heappop(self._ends)
            if run.running and run.stay == stay:
                self._end(run, "stop")
        if not self._steps % self._interval:
            for run in self._running:
                run.news.set()
        while self._profile.kv_tokens and len(self._running) > 1 and self._cached >= self._profile.kv_tokens:
            self._preempt()
        self._plan()

    def _next_end(self) -> float:
        while self._ends:
            at, _, stay, run = self._ends[0]
            if run.running and run.stay == stay:
                return at
            heapq.heappop(self._ends)
        return math.inf

    def _overflow(self) -> float:
        if not self._profile.kv_tokens or len(self._running) < 2:
            return math.inf
        return self._steps + max(0.0, self._profile.kv_tokens - self._cached) / len(self._running)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _arrive(self, run: _Run) -> None:
        if run.ended is None and self._open:
            self._waiting.append(run)
            self._plan_soon()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            run = self._waiting[0]
            if run.ended is not None:
                self._waiting.popleft()
                continue
            size = run.prompt_tokens + run.tokens
            if self._profile.kv_tokens and self._running and self._cached + size >= self._profile.kv_tokens:
                return
            self._waiting.popleft()
            if not self._running:
                self._machine.engine(+1)
                self._steps = math.ceil(self._steps - _EPSILON)
            run.running, run.joined = True, math.ceil(self._steps - _EPSILON)
            run.stay += 1
            self._running[run] = None
            self._cached += size
            self._stall_s += self._profile.request_s + size * self._profile.prefill_token_s
            heapq.heappush(self._ends, (run.joined + run.length - run.tokens, run.order, run.stay, run))

    def _preempt(self) -> None:
        """The one that came last goes back to the head of the queue, and is read again when there is room."""
        run = next(reversed(self._running))
        self._leave(run)
        self._waiting.appendleft(run)
        self.num_preempted += 1

    def _tokens_of(self, run: _Run) -> int:
        if not run.running:
            return run.tokens
        return min(run.length, run.tokens + max(0, math.floor(self._steps - run.joined + _EPSILON)))

    def _close_span(self, run: _Run) -> None:
        """What it gained until now is of the version until now."""
        tokens = self._tokens_of(run)
        if tokens > run.spanned:
            if not run.spans or run.spans[-1].version != self._version:
                run.spans.append(VersionSpan(self._version, run.spanned - run.start))
            run.spanned = tokens

    def _leave(self, run: _Run) -> None:
        self._close_span(run)
        run.tokens = run.spanned
        del self._running[run]
        run.running = False
        self._cached -= run.prompt_tokens + run.tokens
        if not self._running:
            self._cached = 0.0
            self._machine.engine(-1)

    def _end(self, run: _Run, how: FinishReason | EngineDead) -> None:
        """End it, once."""
        if run.ended is not None:
            return
        if run.running:
            self._settle()
            self._leave(run)
            if self._open:
                self._plan_soon()
        run.ended = how
        run.news.set()

    def _output(self, run: _Run, *, capped: bool) -> EngineOutput:
        tokens = self._tokens_of(run)
        new = tokens - run.put_out
        token_ids = _of(_TOKENS, new)
        if new and run.put_out == 0:
            token_ids[0] = run.first_token
        run.put_out = tokens
        reason = run.ended if isinstance(run.ended, str) else None
        if reason == "stop" and capped:
            reason = "length"
        spans = tuple(run.spans) if reason else ()
        return EngineOutput(
            token_ids=token_ids, logprobs=_of(_LOGPROBS, new), finish_reason=reason, version_spans=spans
        )


def _of(placeholders: array[_N], number: int) -> array[_N]:
    """So many of them: a response's buffer takes arrays in without looking at each item."""
    if number <= len(placeholders):
        return placeholders[:number]
    return placeholders[:1] * number
