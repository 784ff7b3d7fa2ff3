"""The contract between a generator and its engine: what to sample goes in, tokens with their log-probs come out.

Invariant: the deltas of a request, joined, are its response; the last one has a finish reason and says which policy
version sampled which token. An engine never keeps anything of a request that has ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from darts_async.messages import RolloutRequest, VersionSpan

FinishReason: TypeAlias = Literal["stop", "length", "abort"]


class EngineOutput(msgspec.Struct, frozen=True):
    """What one request produced since its last output."""

    token_ids: Sequence[int]
    """New response tokens; the last one of a response that stopped by itself is the EOS."""
    logprobs: Sequence[float]
    """Log-prob of each new token in the distribution it was drawn from: temperature applied, nothing truncated."""
    finish_reason: FinishReason | None = None
    """Set on the last output: ended by itself, at the cap, or by `abort`."""
    version_spans: tuple[VersionSpan, ...] = ()
    """Of everything this stream put out; on the last output only."""


@runtime_checkable
class RolloutEngine(Protocol):
    """An inference engine whose weights are swapped while it samples. One event loop owns it."""

    @property
    def version(self) -> int:
        """The policy version that the engine has confirmed it serves."""

    @property
    def num_unfinished(self) -> int:
        """Requests whose stream has not ended."""

    async def start(self) -> None:
        """Load the model and get ready to sample; version 0. Raises `EngineDead` when that fails."""

    def generate(self, request: RolloutRequest, prefix: Sequence[int] = ()) -> AsyncGenerator[EngineOutput, None]:
        """Sample one response, or go on with one that was aborted.

        prefix: the tokens it had. They count towards the cap, are not sampled and not put out again, and the rest is
        sampled under the weights of now, the prefix re-read with them; spans and log-probs are of the new tokens,
        counted from 0. The same request with another prefix draws other random numbers.

        The stream ends after an output with a finish reason. Closing it early, or cancelling the task that reads it,
        ends the request in the engine too.
        Raises `RolloutError` when this request cannot be served, `EngineDead` when none can any more.
        """

    async def abort(self, candidate_ids: Sequence[int]) -> None:
        """End these requests now; each stream's last output has the reason `abort` and the tokens so far.

        Unknown and finished ids are ignored. When it returns, the engine has been told.
        """

    async def update_weights(self, version: int, weights: str) -> None:
        """Serve the weights of a safetensors file (or of an adapter's, merged with the model folder's weights) as
        `version`; running requests go on with them.

        An older or the current version is ignored. Raises `ProtocolError` when the file is missing or does not fit the
        model: the engine then serves the old version as before. Raises `EngineDead` when anything later fails.
        """

    async def wait_dead(self) -> None:
        """Return when the engine has died by itself; until then, wait."""

    async def close(self) -> None:
        """End everything that runs and release the engine. Idempotent; never raises for an engine that is dead."""


@runtime_checkable
class ReportsStats(Protocol):
    """An engine that has figures of its own to tell."""

    def stats(self) -> dict[str, float]:
        """By metric name, `engine/...`; cheap enough for once a second."""
