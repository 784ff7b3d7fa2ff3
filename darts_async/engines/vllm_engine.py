"""vLLM's `AsyncLLM` as a `RolloutEngine`: one engine process, tokens streamed, weights swapped while it samples.

Invariants: no request's state is left behind, however its stream ends (an abort waits until the add is through:
cancelling it half-way leaks, vllm#57061); the engine never serves weights whose version is unknown; it is never left
paused.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import time
from collections.abc import AsyncGenerator, Sequence
from importlib.metadata import entry_points
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from darts_async.config import Config
from darts_async.config.paths import model_folder
from darts_async.engines import vllm_plugin
from darts_async.engines.base import EngineOutput, FinishReason
from darts_async.engines.engine_stats import EngineStats
from darts_async.engines.lora_file import base_mark, check_adapter, is_adapter
from darts_async.engines.process import LastingThread
from darts_async.engines.vllm_settings import continuation, engine_arguments, environment, sampling_arguments
from darts_async.engines.vllm_stats import stat_logger
from darts_async.engines.vllm_update import WeightSwap
from darts_async.engines.weights_file import check_weights, model_shapes, read_shapes, tied_embeddings
from darts_async.errors import ConfigError, EngineDead, ProtocolError, RolloutError
from darts_async.messages import RolloutRequest, VersionSpan

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import RequestOutputCollector

_log = logging.getLogger(__name__)
_SHUTDOWN_S: Final = 0.5  # vLLM's process takes 3 to 5 s to leave by itself and has nothing to save
_REASONS: Final[dict[str | None, FinishReason | None]] = {
    None: None,
    "stop": "stop",
    "length": "length",
    "abort": "abort",
}


class VllmEngine:
    """One `AsyncLLM`. Its methods belong to the event loop that started it."""

    def __init__(self, config: Config, rank: int) -> None:
        self._config = config
        self._rank = rank
        self._folder = Path(model_folder(config)).absolute()
        self._version = 0
        self._mark = ""
        """Of the model folder; known once an adapter has come."""
        self._llm: AsyncLLM | None = None
        self._thread: LastingThread[AsyncLLM] | None = None
        self._adds: dict[int, asyncio.Task[RequestOutputCollector]] = {}
        self._updating = asyncio.Lock()
        self._failure: EngineDead | None = None
        self._closed = False
        self._others = set(multiprocessing.active_children())
        self._stats = EngineStats() if config.metrics.engine_metrics else None
        self.update_phases_s: dict[str, float] = {}
        """Seconds each phase of the last weight update took."""

    @property
    def version(self) -> int:
        """The policy version that the engine has confirmed."""
        return self._version

    @property
    def num_unfinished(self) -> int:
        """Requests whose stream has not ended."""
        return len(self._adds)

    async def start(self) -> None:
        """Start the engine process (30 to 45 s on 2 cores, imports mostly), label its weights, sample one token."""
        self._shapes = await asyncio.to_thread(model_shapes, self._folder)
        self._tied = await asyncio.to_thread(tied_embeddings, self._folder)
        os.environ.update(environment(self._config))
        # The engine's process asks to die with the thread that starts it, so that thread stays until `close`.
        self._thread = LastingThread(f"vllm-{self._rank}", self._make, lambda llm: llm.shutdown(_SHUTDOWN_S))
        started = time.monotonic()
        try:
            self._llm = await self._thread.result()
            await self._llm.update_weight_version("0")
            async for _ in self.generate(_warm_up()):
                pass
        except (ConfigError, EngineDead, asyncio.CancelledError):
            await self.close()
            raise
        except Exception as error:
            await self.close()
            raise EngineDead(f"vLLM did not start: {error}") from error
        _log.info("vLLM serves %s after %.1f s", self._folder, time.monotonic() - started)

    def _make(self) -> AsyncLLM:
        from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - the environment comes first
        from vllm.platforms import current_platform  # noqa: PLC0415
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        if vllm_plugin.PLUGIN not in {entry.name for entry in entry_points(group="vllm.general_plugins")}:
            raise EngineDead("this package is not installed, so vLLM cannot load its plugin: pip install -e .")
        vllm_plugin.register()
        arguments = engine_arguments(self._config, on_cpu=bool(current_platform.is_cpu()))
        try:
            parsed = AsyncEngineArgs(**arguments)
        except TypeError as error:
            given = self._config.generator.engine_args
            raise ConfigError("generator.engine_args", given, str(error), "See vLLM's AsyncEngineArgs.") from error
        loggers = None if self._stats is None else [stat_logger(self._stats)]
        return cast("AsyncLLM", AsyncLLM.from_engine_args(parsed, stat_loggers=loggers))

    async def generate(self, request: RolloutRequest, prefix: Sequence[int] = ()) -> AsyncGenerator[EngineOutput, None]:
        """Sample one response; see `RolloutEngine.generate`."""
        candidate = request.candidate_id
        if candidate in self._adds:
            raise RolloutError(f"candidate {candidate} is running already")
        add = asyncio.create_task(self._add(continuation(request, prefix)), name=f"add-{candidate}")
        self._adds[candidate] = add
        ended = False
        try:
            # Shielded: cancelling the add half-way would leave the request in the engine without anybody's knowledge.
            collector = await asyncio.shield(add)
            while not ended:
                output = cast("RequestOutput", collector.get_nowait() or await collector.get())
                ended = output.finished
                yield _convert(output)
        except (RolloutError, EngineDead):
            raise
        except Exception as error:
            raise _translated(error, candidate) from error
        finally:
            if ended:
                self._adds.pop(candidate, None)
            else:  # goes on by itself when this is cancelled a second time
                await asyncio.shield(self._withdraw(candidate, add))

    async def _add(self, request: RolloutRequest) -> RequestOutputCollector:
        from vllm import SamplingParams  # noqa: PLC0415 - loaded by now
        from vllm.inputs import tokens_input  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        llm = self._alive()
        longest = self._config.model.max_prompt_tokens + self._config.model.max_response_tokens
        if request.prompt_tokens.size + request.max_response_tokens > longest:
            raise RolloutError(
                f"{request.prompt_tokens.size} prompt tokens and a response of up to {request.max_response_tokens} do "
                f"not fit model.max_prompt_tokens + model.max_response_tokens = {longest}"
            )
        # The salt keeps prefix-cache entries of other weights from being reused for a new prompt.
        prompt = tokens_input(request.prompt_tokens.tolist(), cache_salt=str(self._version))
        parameters = SamplingParams(**sampling_arguments(self._config, request), output_kind=RequestOutputKind.DELTA)
        name = str(request.candidate_id)
        try:
            return await llm.add_request(name, prompt, parameters)
        except Exception:
            await llm.abort(name)  # its front end has entered it before it is sent to its process
            raise

    async def _withdraw(self, candidate: int, add: asyncio.Task[RequestOutputCollector]) -> None:
        """End a request that nobody reads any more, and forget it."""
        try:
            await asyncio.wait([add])
            if add.cancelled() or add.exception() is not None or self._llm is None:
                return
            await self._llm.abort(add.result().request_id, internal=True)
        finally:
            self._adds.pop(candidate, None)

    async def abort(self, candidate_ids: Sequence[int]) -> None:
        """Abort in the engine; see `RolloutEngine.abort`."""
        llm = self._alive()
        known = {candidate: self._adds[candidate] for candidate in candidate_ids if candidate in self._adds}
        if added := [str(candidate) for candidate, add in known.items() if add.done()]:
            await llm.abort(added)
        if pending := {candidate: add for candidate, add in known.items() if not add.done()}:
            await asyncio.wait(pending.values())
            await llm.abort([str(candidate) for candidate in pending])

    async def update_weights(self, version: int, weights: str) -> None:
        """Swap the weights in flight; see `RolloutEngine.update_weights`."""
        async with self._updating:
            if version <= self._version:
                return
            llm = self._alive()
            if not weights:
                raise ProtocolError(f"version {version} of the policy comes without a weights file")
            path = Path(weights)
            base = await asyncio.to_thread(self._check, path)
            swap = WeightSwap(llm, version, path, self._config.generator.update_timeout_s, base)
            try:
                await swap.run()
            except BaseException as error:
                self._die(EngineDead(f"the update to version {version} did not complete: {error}"))
                raise
            self._version = version
            self.update_phases_s = swap.phases_s

    def _check(self, path: Path) -> Path | None:
        """Return what these weights are to be merged with: the model folder, if they are an adapter, or nothing.

        Raises `ProtocolError` when they do not fit the model.
        """
        if not path.is_dir() and is_adapter(read_shapes(path)):
            if not self._mark:
                self._mark = base_mark(self._folder)
            check_adapter(path, self._shapes, self._mark)
            return self._folder
        check_weights(path, self._shapes, tied=self._tied)
        return None

    def stats(self) -> dict[str, float]:
        """What vLLM says of itself; see `ReportsStats`."""
        return {} if self._stats is None else self._stats.gauges()

    async def wait_dead(self) -> None:
        """Return when vLLM's output handler has ended, which is how a dead engine process shows."""
        llm = self._alive()
        handler = llm.output_handler
        assert handler is not None, "the warm-up request has started it"
        await asyncio.wait([handler])

    async def close(self) -> None:
        """Kill the engine process and let the thread that started it go."""
        if self._closed:
            return
        self._closed = True
        llm, self._llm = self._llm, None
        if llm is None:
            # Cancelled or failed while it started: nobody else knows of what it has spawned so far.
            for child in self._children():
                child.kill()
        else:
            if (handler := llm.output_handler) is not None:
                handler.cancel()
                await asyncio.wait([handler])
            llm.output_processor.propagate_error(EngineDead("the engine was closed"))
            logging.getLogger("vllm.v1.utils").setLevel(logging.ERROR)  # it warns of the kill that is meant
            await asyncio.to_thread(llm.shutdown, _SHUTDOWN_S)
            await asyncio.to_thread(_join, self._children())
            llm.shutdown = _nothing  # its finalizer calls it again, when the interpreter may be half gone
        if self._thread is not None:
            self._thread.release()

    def _children(self) -> list[BaseProcess]:
        """Processes that have been started since this engine was."""
        return [child for child in multiprocessing.active_children() if child not in self._others]

    def _alive(self) -> AsyncLLM:
        if self._failure is not None:
            raise self._failure
        if self._llm is None or self._closed:
            raise EngineDead("the engine is not running")
        return self._llm

    def _die(self, failure: EngineDead) -> None:
        """Never serve again; whoever reads a stream is told."""
        self._failure = failure
        if self._llm is not None:
            self._llm.output_processor.propagate_error(failure)


def _translated(error: Exception, candidate: int) -> EngineDead | RolloutError:
    from vllm.v1.engine.exceptions import EngineDeadError  # noqa: PLC0415 - loaded by now

    if isinstance(error, EngineDeadError):
        return EngineDead("vLLM's engine process died; its last words are in this role's log")
    return RolloutError(f"vLLM refused or failed candidate {candidate}: {type(error).__name__}: {error}")


def _convert(output: RequestOutput) -> EngineOutput:
    part = output.outputs[0]
    if part.finish_reason not in _REASONS:
        raise RolloutError(f"vLLM ended the request with the reason {part.finish_reason}")
    logprobs = [] if part.logprobs is None else list(part.logprobs.logprobs)
    if len(logprobs) != len(part.token_ids):
        raise RolloutError(f"vLLM sent {len(part.token_ids)} tokens with {len(logprobs)} log-probs")
    spans = tuple(VersionSpan(version=int(span.version), start=span.start) for span in part.weight_versions or ())
    return EngineOutput(
        token_ids=list(part.token_ids),
        logprobs=logprobs,
        finish_reason=_REASONS[part.finish_reason],
        version_spans=spans,
    )


def _join(children: list[BaseProcess]) -> None:
    for child in children:
        child.join(_SHUTDOWN_S)


def _nothing() -> None:
    pass


def _warm_up() -> RolloutRequest:
    import numpy as np  # noqa: PLC0415

    return RolloutRequest(
        candidate_id=0, prompt_tokens=np.zeros(1, np.int32), seed=0, max_response_tokens=1, min_policy_version=0
    )
