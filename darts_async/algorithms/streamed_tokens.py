"""The responses whose tokens arrive in chunks while they still decode, joined. Pure; one thread.

Invariants: the tokens of a response are the chunks' tokens without gaps, or the response is forgotten; one that was
forgotten (trained, dropped, broken) never comes back: chunks and notices of it travel on links that keep no order
between them, so a late chunk is told from a first one by memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from darts_async.messages import TrajectoryChunk

__all__ = ["StreamedResponse", "StreamedTokens"]

_REMEMBERED: Final = 1 << 16
"""Forgotten responses whose ids are kept: far more than can be under way at once."""


class StreamedResponse:
    """One response as far as it is known."""

    __slots__ = ("cached", "candidate_id", "num_tokens", "order", "prompt_tokens", "tokens")

    def __init__(self, chunk: TrajectoryChunk, order: int) -> None:
        self.candidate_id = chunk.candidate_id
        self.order = order
        """How many came before it: larger is newer."""
        self.prompt_tokens: int = chunk.prompt_tokens.size
        self.tokens: npt.NDArray[np.int32] = np.concatenate([chunk.prompt_tokens, chunk.response_tokens])
        """int32 [prompt_len + num_tokens]: prompt and response."""
        self.num_tokens: int = chunk.response_tokens.size
        """Response tokens."""
        self.cached = True
        """Scores of it are kept; False once the bound on the caches left no room."""

    def begins(self, prompt: npt.NDArray[np.int32], response: npt.NDArray[np.int32]) -> bool:
        """Whether this is a beginning of that prompt and response."""
        return (
            prompt.size == self.prompt_tokens
            and response.size >= self.num_tokens
            and np.array_equal(self.tokens[: self.prompt_tokens], prompt)
            and np.array_equal(self.tokens[self.prompt_tokens :], response[: self.num_tokens])
        )

    def has(self, chunk: TrajectoryChunk) -> bool:
        """Whether it came before."""
        at = self.prompt_tokens + chunk.start
        return np.array_equal(self.tokens[at : at + chunk.response_tokens.size], chunk.response_tokens)


class StreamedTokens:
    """All responses that are being streamed, oldest first."""

    def __init__(self, max_response_tokens: int) -> None:
        self._max = max_response_tokens
        self._responses: dict[int, StreamedResponse] = {}
        self._forgotten: OrderedDict[int, None] = OrderedDict()
        self._num_seen = 0

    def __len__(self) -> int:
        return len(self._responses)

    def __iter__(self) -> Iterator[StreamedResponse]:
        return iter(self._responses.values())

    def add(self, chunk: TrajectoryChunk) -> bool:
        """Take a chunk; False if it does not join what is there: the response is to be forgotten."""
        candidate, response = chunk.candidate_id, self._responses.get(chunk.candidate_id)
        if candidate in self._forgotten:
            return True
        if response is None and chunk.start == 0 and chunk.response_tokens.size <= self._max:
            self._responses[candidate] = StreamedResponse(chunk, self._num_seen)
            self._num_seen += 1
            return True
        if response is None or chunk.start != response.num_tokens:
            return response is not None and response.has(chunk)
        if response.num_tokens + chunk.response_tokens.size > self._max:
            return False
        response.tokens = np.concatenate([response.tokens, chunk.response_tokens])
        response.num_tokens += chunk.response_tokens.size
        return True

    def forget(self, candidate_id: int) -> StreamedResponse | None:
        """Take a response out, for good; None if there is nothing of it."""
        self._forgotten[candidate_id] = None
        if len(self._forgotten) > _REMEMBERED:
            self._forgotten.popitem(last=False)
        return self._responses.pop(candidate_id, None)
