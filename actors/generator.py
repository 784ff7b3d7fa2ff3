"""The generator: one engine and its candidates.

Requests go into the engine as they come, within the credits; trajectories, ends and token counts come out; cancels
reach the engine on a path of their own that nothing can hold up; new weights are swapped in while it samples (mode
`one_step_off`: once nothing samples any more, so that a response is of one version). A parked candidate stops, keeps
what it has, and goes on from there under a later version.

Invariants: every request ends in exactly one `Trajectory` or `RolloutEnded`, also those that were on their way when
the run was stopped, unless its group is over by then (`DropBelow`) and nobody waits for it; `Progress` of a candidate
never follows its end; no request reaches an engine older than its `min_policy_version` (or the version it was parked
for); memory is bounded by the credits (a candidate, parked or not, keeps its credit until its end has been sent), of
which there is one capacity's worth whoever sends: an earlier start of the allocator has none any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from typing import Final, TypeVar

import numpy as np

from darts_async import clock
from darts_async.algorithms.evaluation import EvalSchedule
from darts_async.algorithms.generator_waits import GeneratorAt, generator_waits
from darts_async.algorithms.latency_probe import LatencyProbe
from darts_async.algorithms.latency_table import LatencyTable
from darts_async.algorithms.places import Places
from darts_async.algorithms.step_record import Mean
from darts_async.algorithms.swap_order import SwapOrder
from darts_async.config import Config
from darts_async.engines import RolloutEngine, make_rollout_engine
from darts_async.engines.base import ReportsStats
from darts_async.engines.response import ResponseBuffer
from darts_async.errors import EngineDead, ProtocolError, RolloutError, TransportError
from darts_async.messages import (
    AllocatorStarted,
    CancelRollouts,
    Credits,
    DropBelow,
    EvaluationDone,
    FromAllocator,
    GeneratorHello,
    LatencySamples,
    ParkRollouts,
    PolicyApplied,
    PolicyUpdate,
    Progress,
    RolloutEnded,
    RolloutRequest,
    StreamEnd,
    StreamRollouts,
    Trajectory,
    TrajectoryChunk,
    group_of,
    index_of,
)
from darts_async.metrics import BusyClock, percentile
from darts_async.runtime.chunk_outbox import ChunkOutbox
from darts_async.runtime.links import GeneratorLinks
from darts_async.runtime.waiting import Outlook
from darts_async.tracing.generator_spans import GeneratorSpans

_log = logging.getLogger(__name__)
_GAUGE_S: Final = 1.0
_EARLY_CANCELS: Final = 1 << 14
"""Cancels (parks, streams) of unknown candidates that are remembered; nearly all of them are of candidates that have
just ended. Also the least number of requests that are remembered."""
_WAITING_CHUNKS: Final = 256
"""Chunks that may wait for the learner; beyond it a candidate's stream is given up."""
_SAMPLES: Final = 1 << 16
_ERROR_CHARS: Final = 2000
_T = TypeVar("_T")


async def run(links: GeneratorLinks, config: Config, engine: RolloutEngine | None = None) -> None:
    """Serve rollouts until the run is stopped. Raises `EngineDead` when the engine dies or an update of it fails."""
    supervisor = links.supervisor
    if engine is None:
        engine = make_rollout_engine(config, links.rank)
    supervisor.state = "starting the engine"
    try:
        started = await _start(engine, supervisor.stopping)
        replica = _Replica(links, config, engine)
        supervisor.look = replica.look
        if started:
            hello = GeneratorHello(replica=links.rank, incarnation=supervisor.incarnation)
            await links.cancels.send(hello)
            await links.policy.send(hello)
            await supervisor.ready()
            await replica.serve()
        await links.trajectories.send(StreamEnd(role="generator", rank=links.rank))
    finally:
        await engine.close()
    await supervisor.finish(replica.summary())


async def _start(engine: RolloutEngine, stopping: asyncio.Event) -> bool:
    """Start the engine; False if the run was stopped meanwhile."""

    async def give_up() -> None:
        await stopping.wait()
        starting.cancel()

    async with asyncio.TaskGroup() as group:
        starting = group.create_task(engine.start())
        watching = group.create_task(give_up())
        starting.add_done_callback(lambda _: watching.cancel())
    return not starting.cancelled()


class _Candidate:
    """One request on its way through the engine."""

    def __init__(self, request: RolloutRequest) -> None:
        self.request = request
        self.began_s = clock.now_s()
        self.min_version = request.min_policy_version
        """It is held until the engine serves this; parking raises it."""
        self.released = asyncio.Event()
        """Need not wait: the weights are new enough, or it was cancelled. Cleared when it is parked."""
        self.parked = False
        """An abort of it in the engine was a pause, unless it was cancelled since."""
        self.cancelled = False
        self.buffer = ResponseBuffer()
        self.num_streamed: int | None = None
        """Tokens of it that were sent on to the learner; None if it is not streamed."""
        self.cancel_latency_s: asyncio.Future[float] | None = None
        """Set when the engine's abort has returned; None if no abort was sent for it."""

    @property
    def is_paused(self) -> bool:
        """Whether it goes on after the engine has aborted it."""
        return self.parked and not self.cancelled


def _remember(book: OrderedDict[int, _T], candidate_id: int, what: _T, most: int = _EARLY_CANCELS) -> None:
    book[candidate_id] = what
    if len(book) > most:
        book.popitem(last=False)


class _Replica:
    def __init__(self, links: GeneratorLinks, config: Config, engine: RolloutEngine) -> None:
        self._links = links
        self._incarnation = links.supervisor.incarnation
        self._engine = engine
        self._live: dict[int, _Candidate] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._requested: OrderedDict[int, bool] = OrderedDict()
        """The last candidates that were requested."""
        self._num_remembered = max(_EARLY_CANCELS, 4 * config.generator.max_num_seqs)
        self._early_cancels: OrderedDict[int, bool] = OrderedDict()
        self._early_parks: OrderedDict[int, int] = OrderedDict()
        self._early_streams: OrderedDict[int, bool] = OrderedDict()
        self._chunk_tokens = config.queues.chunk_tokens
        self._chunks = ChunkOutbox(_WAITING_CHUNKS)
        self._idle = asyncio.Event()
        """No candidate is in the engine."""
        self._idle.set()
        self._may_start = asyncio.Event()
        """No swap is under way that has to find the engine empty."""
        self._may_start.set()
        self._between_batches = config.pipeline.mode == "one_step_off"
        schedule = EvalSchedule.of(config)
        self._places = Places(config.generator.max_num_seqs + schedule.reserve)
        self._credit_news = asyncio.Event()
        self._progress: dict[int, int] = {}
        self._progress_news = asyncio.Event()
        self._sending = asyncio.Lock()
        self._num_reports = 0
        """Ends of candidates on their way into the link."""
        self._swaps = SwapOrder(schedule)
        self._update_news = asyncio.Event()
        self._loading: int | None = None
        """The version that the engine is taking up."""
        self._clock = BusyClock()
        self._probe = LatencyProbe()
        self._spans = GeneratorSpans()
        self._latencies = LatencyTable()
        self._first_output_s = Mean()
        self._counts = dict.fromkeys(
            ("trajectories", "cancelled", "failed", "parked", "tokens", "streams_dropped", "dropped_tokens"), 0
        )
        self._update_ms: deque[float] = deque(maxlen=_SAMPLES)
        self._cancel_ms: deque[float] = deque(maxlen=_SAMPLES)

    async def serve(self) -> None:
        """Work until the run is stopped, then end every candidate and report it."""
        stopping = self._links.supervisor.stopping
        self._clock = BusyClock()
        async with asyncio.TaskGroup() as group:
            self._group = group
            intake = [
                group.create_task(self._take_requests()),
                group.create_task(self._take_cancels()),
                group.create_task(self._take_updates()),
            ]
            updating = group.create_task(self._apply_updates(stopping))
            outgoing = [
                group.create_task(self._grant_credits()),
                group.create_task(self._flush_progress()),
                group.create_task(self._send_chunks()),
                group.create_task(self._measure()),
                group.create_task(self._heed_losses()),
                group.create_task(self._watch_engine()),
            ]
            await stopping.wait()
            self._links.supervisor.state = "draining"
            for task in intake:
                task.cancel()
            self._update_news.set()
            await asyncio.wait(intake)
            await self._drain()
            await asyncio.wait([updating])  # an update under way is completed: cut off, it would break the engine
            for task in outgoing:
                task.cancel()
        self._set_gauges(0)

    # --- requests -------------------------------------------------------------------------------------------------

    async def _take_requests(self) -> None:
        while True:
            self._take(await self._links.rollouts.recv())

    def _take(self, message: FromAllocator) -> None:
        match message:
            case EvaluationDone():
                self._swaps.evaluated(message.version)
                self._update_news.set()
            case AllocatorStarted():
                self._serve(message.incarnation)
            case RolloutRequest():
                self._accept(message)

    def _serve(self, allocator: int) -> None:
        if self._places.serve(allocator):
            self._credit_news.set()

    def _accept(self, request: RolloutRequest) -> None:
        if request.incarnation != self._incarnation:
            return  # for an earlier start of this replica: written off together with it
        if request.candidate_id in self._requested:
            return  # it is under way, or over: a repeat changes nothing
        _remember(self._requested, request.candidate_id, True, self._num_remembered)
        verdict = self._places.take(request.allocator, group_of(request.candidate_id))
        if verdict != "sample":
            self._credit_news.set()
            return
        candidate = self._live[request.candidate_id] = _Candidate(request)
        candidate.cancelled = (
            self._early_cancels.pop(request.candidate_id, False) or self._links.supervisor.stopping.is_set()
        )
        candidate.min_version = max(candidate.min_version, self._early_parks.pop(request.candidate_id, 0))
        if self._early_streams.pop(request.candidate_id, False):
            candidate.num_streamed = 0
        if candidate.cancelled or self._engine.version >= candidate.min_version:
            candidate.released.set()
        task = self._group.create_task(self._see_through(candidate), name=f"candidate-{request.candidate_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, candidate: _Candidate) -> None:
        """Sample one candidate and report its end; its credit goes back when the report is on its way."""
        candidate_id = candidate.request.candidate_id
        message = await self._outcome(candidate)
        del self._live[candidate_id]
        self._progress.pop(candidate_id, None)
        if isinstance(message, Trajectory):
            self._counts["trajectories"] += 1
        else:
            self._stop_streaming(candidate)
            self._counts[message.reason] += 1
            if message.reason == "cancelled":
                latency_s = message.cancel_latency_s
                self._spans.cancelled(group_of(candidate_id), candidate_id, message.num_tokens, latency_s)
        if self._places.is_over(group_of(candidate_id)):
            self._counts["dropped_tokens"] += candidate.buffer.num_tokens
        else:
            self._num_reports += 1
            async with self._sending:
                await self._links.trajectories.send(message)
            self._num_reports -= 1
        self._places.leave()
        self._credit_news.set()

    async def _outcome(self, candidate: _Candidate) -> Trajectory | RolloutEnded:
        buffer = candidate.buffer
        try:
            while True:
                while not (candidate.released.is_set() and self._may_start.is_set()):
                    # In a loop: it may be parked between the event and this task's turn.
                    await candidate.released.wait()
                    await self._may_start.wait()
                # No await between this check and the engine's own registration, so a cancel sees either side of it.
                if candidate.cancelled:
                    break
                candidate.parked = False
                await self._sample(candidate, buffer, buffer.resume())
                if not (buffer.finish_reason == "abort" and candidate.is_paused):
                    break
            if candidate.cancelled and buffer.finish_reason in {None, "abort"}:
                latency_s = None if candidate.cancel_latency_s is None else await candidate.cancel_latency_s
                return self._ended(candidate, buffer, cancel_latency_s=latency_s)
            if buffer.finish_reason not in {"stop", "length"}:
                return self._ended(candidate, buffer, error="the engine ended it without being asked to")
            return buffer.trajectory(candidate.request.candidate_id, self._links.rank)
        except RolloutError as error:
            return self._ended(candidate, buffer, error=str(error) or type(error).__name__)

    async def _sample(self, candidate: _Candidate, buffer: ResponseBuffer, prefix: list[int]) -> None:
        self._clock.change(+1)
        self._spans.requested()
        self._idle.clear()
        began: float | None = clock.now_s()
        try:
            async with contextlib.aclosing(self._engine.generate(candidate.request, prefix)) as outputs:
                async for output in outputs:
                    buffer.extend(output)
                    num_new = len(output.token_ids)
                    self._counts["tokens"] += num_new
                    self._probe.output(candidate.request.candidate_id, num_new, self._clock.num_running, clock.now_s())
                    if began is not None:
                        self._first_output_s.add(clock.now_s() - began)
                        began = None
                        candidate_id = candidate.request.candidate_id
                        is_first = not prefix and index_of(candidate_id) == 0
                        self._spans.first_output(group_of(candidate_id), is_first=is_first)
                    if buffer.finish_reason is None:
                        self._progress[candidate.request.candidate_id] = buffer.num_tokens
                        self._progress_news.set()
                        self._stream(candidate)
        finally:
            self._clock.change(-1)
            self._spans.left(decoded=began is None)
            self._probe.ended(candidate.request.candidate_id)
            if not self._clock.num_running:
                self._idle.set()

    def _ended(
        self, candidate: _Candidate, buffer: ResponseBuffer, *, error: str = "", cancel_latency_s: float | None = None
    ) -> RolloutEnded:
        return RolloutEnded(
            candidate_id=candidate.request.candidate_id,
            replica=self._links.rank,
            reason="failed" if error else "cancelled",
            num_tokens=buffer.num_tokens,
            error=error[:_ERROR_CHARS],
            cancel_latency_s=cancel_latency_s,
        )

    async def _grant_credits(self) -> None:
        self._credit_news.set()
        while True:
            await self._credit_news.wait()
            self._credit_news.clear()
            await self._links.rollouts.send(
                Credits(
                    replica=self._links.rank,
                    incarnation=self._incarnation,
                    allocator=self._places.allocator,
                    granted_total=self._places.granted,
                )
            )

    async def _flush_progress(self) -> None:
        while True:
            await self._progress_news.wait()
            await asyncio.sleep(0)  # the other candidates of the same engine step are about to report
            self._progress_news.clear()
            async with self._sending:  # looked at only when it is this message's turn: ends sent before are not in it
                counts, self._progress = self._progress, {}
                if not counts:
                    continue
                ids = np.fromiter(counts.keys(), np.int64, len(counts))
                tokens = np.fromiter(counts.values(), np.int32, len(counts))
                message = Progress(replica=self._links.rank, candidate_ids=ids, num_tokens=tokens)
                await self._links.trajectories.send(message)

    # --- token streaming ------------------------------------------------------------------------------------------

    def _stream(self, candidate: _Candidate) -> None:
        """Send what a streamed candidate has, once that is a chunk more than the learner has. Never waits."""
        start = candidate.num_streamed
        if start is None or candidate.cancelled or candidate.buffer.num_tokens - start < self._chunk_tokens:
            return
        tokens = candidate.buffer.tokens_from(start)
        prompt = candidate.request.prompt_tokens
        chunk = TrajectoryChunk(
            candidate_id=candidate.request.candidate_id,
            start=start,
            prompt_tokens=prompt if start == 0 else prompt[:0],
            response_tokens=tokens,
        )
        if self._chunks.put(chunk):
            candidate.num_streamed = start + tokens.size
        else:
            candidate.num_streamed = None
            self._counts["streams_dropped"] += 1

    def _stop_streaming(self, candidate: _Candidate) -> None:
        """It will not be trained on: tell the learner, if it has heard of it."""
        if candidate.num_streamed:
            self._chunks.drop(candidate.request.candidate_id)
        candidate.num_streamed = None

    def _begin_streams(self, message: StreamRollouts) -> None:
        if not self._chunk_tokens:
            return
        for candidate_id in message.candidate_ids:
            candidate = self._live.get(candidate_id)
            if candidate is None:
                _remember(self._early_streams, candidate_id, True)
            elif candidate.num_streamed is None and not candidate.cancelled:
                candidate.num_streamed = 0
                if candidate.buffer.finish_reason not in {"stop", "length"}:
                    self._stream(candidate)

    async def _send_chunks(self) -> None:
        while True:
            await self._links.chunks.send(await self._chunks.take())

    # --- cancels --------------------------------------------------------------------------------------------------

    async def _take_cancels(self) -> None:
        while True:
            message = await self._links.cancels.recv()
            if isinstance(message, ParkRollouts):
                await self._park(message)
            elif isinstance(message, StreamRollouts):
                self._begin_streams(message)
            elif isinstance(message, DropBelow):
                await self._drop_below(message.group_id)
            else:
                await self._cancel(message)

    async def _cancel(self, message: CancelRollouts) -> None:
        """Abort what runs; let go of what is held; remember what has not arrived (it travels on another link)."""
        running: list[_Candidate] = []
        for candidate_id in message.candidate_ids:
            candidate = self._live.get(candidate_id)
            if candidate is None:
                _remember(self._early_cancels, candidate_id, True)
            elif not candidate.cancelled:
                candidate.cancelled = True
                self._stop_streaming(candidate)
                if candidate.released.is_set():
                    candidate.cancel_latency_s = asyncio.get_running_loop().create_future()
                    running.append(candidate)
                candidate.released.set()
        if not running:
            return
        began = clock.now_s()
        try:
            await self._engine.abort([candidate.request.candidate_id for candidate in running])
            self._spans.aborted(len(running), began)
        finally:
            latency_s = clock.now_s() - message.decided_at_s
            for candidate in running:
                assert candidate.cancel_latency_s is not None
                candidate.cancel_latency_s.set_result(latency_s)
        self._cancel_ms.append(latency_s * 1e3)

    async def _drop_below(self, group_id: int) -> None:
        """Everything of earlier groups is over: abort it, and report nothing of it."""
        self._places.drop_below(group_id)
        running: list[int] = []
        for candidate_id, candidate in self._live.items():
            if self._places.is_over(group_of(candidate_id)) and not candidate.cancelled:
                candidate.cancelled = True
                self._stop_streaming(candidate)
                if candidate.released.is_set():
                    running.append(candidate_id)
                candidate.released.set()
        if running:
            await self._engine.abort(running)

    async def _park(self, message: ParkRollouts) -> None:
        """Pause what runs, keep holding what is held; nothing where the version is served already."""
        if self._engine.version >= message.resume_version:
            return
        running: list[int] = []
        for candidate_id in message.candidate_ids:
            candidate = self._live.get(candidate_id)
            if candidate is None:
                _remember(self._early_parks, candidate_id, message.resume_version)
            elif not candidate.cancelled:
                candidate.min_version = max(candidate.min_version, message.resume_version)
                if candidate.released.is_set():
                    candidate.parked = True
                    candidate.released.clear()
                    running.append(candidate_id)
        self._counts["parked"] += len(running)
        if running:
            await self._engine.abort(running)

    # --- weights --------------------------------------------------------------------------------------------------

    async def _heed_losses(self) -> None:
        """Introduce ourselves to whoever is started anew: it knows nobody."""
        while True:
            lost = await self._links.supervisor.losses.get()
            hello = GeneratorHello(replica=self._links.rank, incarnation=self._incarnation)
            if lost.role == "learner":
                await self._links.policy.send(hello)
            elif lost.role == "selector":
                await self._links.cancels.send(hello)
            elif lost.role == "allocator":
                self._serve(lost.incarnation + 1)

    async def _take_updates(self) -> None:
        while True:
            self._swaps.published(await self._links.policy.recv())
            self._update_news.set()

    async def _apply_updates(self, stopping: asyncio.Event) -> None:
        """Apply what `SwapOrder` says, one at a time; versions that were overtaken are loaded only for evaluation."""
        while True:
            await self._update_news.wait()
            self._update_news.clear()
            while not stopping.is_set() and self._swaps.next() is not None:
                if self._between_batches:
                    await self._idle.wait()
                    if stopping.is_set():
                        return
                    self._may_start.clear()
                try:
                    update = self._swaps.next()
                    if update is not None:
                        await self._apply(update)
                finally:
                    self._may_start.set()
            if stopping.is_set():
                return

    async def _apply(self, update: PolicyUpdate) -> None:
        before = self._engine.version
        started = clock.now_s()
        self._probe.interrupted()
        self._loading = update.version
        try:
            weights = await self._links.weights(update)
            await self._engine.update_weights(update.version, weights)
        except ProtocolError as error:
            if self._swaps.next() is update:
                raise
            _log.warning("version %d was overtaken while it was loaded: %s", update.version, error)
            return
        finally:
            self._loading = None
            self._probe.interrupted()
        update_ms = 0.0
        if self._engine.version != before:
            update_ms = (clock.now_s() - started) * 1e3
            self._update_ms.append(update_ms)
            self._spans.swapped(self._engine.version, started)
        for candidate in self._live.values():
            if self._engine.version >= candidate.min_version:
                candidate.released.set()
        self._swaps.served(self._engine.version)
        applied = PolicyApplied(replica=self._links.rank, version=self._engine.version, update_ms=update_ms)
        await self._links.policy.send(applied)

    # --- the end, and figures -------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """End everything, including requests that have arrived and were not read yet."""
        with contextlib.suppress(TransportError):
            misses = 0
            while misses < 2:  # now and then a link lets other tasks run, which looks like having nothing
                try:
                    async with asyncio.timeout(0):  # takes what is there, waits for nothing
                        message = await self._links.rollouts.recv()
                except TimeoutError:
                    misses += 1
                else:
                    misses = 0
                    self._take(message)
        for candidate in self._live.values():
            candidate.cancelled = True
            candidate.released.set()
        await self._engine.abort(list(self._live))
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _watch_engine(self) -> None:
        await self._engine.wait_dead()
        raise EngineDead("the engine died; what it said last is in this role's log")

    async def _measure(self) -> None:
        """Set the gauges once a second: a clock, not a wait."""
        last_tokens, last = self._counts["tokens"], clock.now_s()
        while True:
            self._set_gauges((self._counts["tokens"] - last_tokens) / max(clock.now_s() - last, 1e-3))
            last_tokens, last = self._counts["tokens"], clock.now_s()
            await self._send_latencies()
            await asyncio.sleep(_GAUGE_S)

    async def _send_latencies(self) -> None:
        concurrency, per_token_s = self._probe.take()
        if concurrency.size:
            self._latencies.add(concurrency.tolist(), per_token_s.tolist())
            await self._links.rollouts.send(
                LatencySamples(replica=self._links.rank, concurrency=concurrency, per_token_s=per_token_s)
            )

    def _set_gauges(self, tokens_per_s: float) -> None:
        supervisor = self._links.supervisor
        busy_s, wall_s = self._clock.read()
        num_held = sum(not candidate.released.is_set() for candidate in self._live.values())
        supervisor.gauges |= {
            "generator/tokens_per_s": tokens_per_s,
            "generator/running": float(self._clock.num_running),
            "generator/held": float(num_held),
            "generator/idle_ratio": 1 - busy_s / wall_s if wall_s else 0.0,
            "policy_version": float(self._engine.version),
        }
        if isinstance(self._engine, ReportsStats):
            supervisor.gauges |= self._engine.stats()
        self._spans.gauges(supervisor.gauges)
        if not supervisor.stopping.is_set():
            supervisor.state = "decoding" if self._clock.num_running else "waiting for requests"

    def look(self) -> Outlook:
        """What it is at, and what its candidates wait for."""
        waiting = [candidate for candidate in self._live.values() if not candidate.released.is_set()]
        update = self._swaps.next() if self._between_batches else None
        at = GeneratorAt(
            version=self._engine.version,
            num_running=self._clock.num_running,
            oldest_s=max((clock.now_s() - c.began_s for c in self._live.values()), default=0.0),
            held=[c.min_version for c in waiting if not c.parked],
            parked=[c.min_version for c in waiting if c.parked],
            free=self._places.free,
            known=self._swaps.newest,
            loading=self._loading,
            empties_for=None if update is None or self._loading is not None else update.version,
            evaluates=self._engine.version if self._swaps.is_holding else None,
            reports=self._num_reports,
            tokens=self._counts["tokens"],
            sent=self._links.trajectories.stats.sent,
        )
        progress = sum(self._counts.values()) + self._places.num_requests + self._engine.version
        return Outlook(progress, generator_waits(at))

    def summary(self) -> dict[str, float]:
        """Return the role's part of the run's summary. Percentiles of nothing are NaN."""
        busy_s, wall_s = self._clock.read()
        updates, cancels = list(self._update_ms), list(self._cancel_ms)
        return {
            **{name: float(count) for name, count in self._counts.items()},
            "busy_s": busy_s,
            "wall_s": wall_s,
            "idle_ratio": 1 - busy_s / wall_s if wall_s else 0.0,
            "tokens_per_s": self._counts["tokens"] / busy_s if busy_s else 0.0,
            "policy_version": float(self._engine.version),
            "updates": float(len(updates)),
            "update_ms/p50": percentile(updates, 50),
            "update_ms/p99": percentile(updates, 99),
            "cancels": float(len(cancels)),
            "cancel_latency_ms/p50": percentile(cancels, 50),
            "cancel_latency_ms/p99": percentile(cancels, 99),
            "first_output_s": self._first_output_s.value,
            **self._latencies.summary(),
        }


if __name__ == "__main__":
    from darts_async.runtime.process import main

    main("generator", run)
