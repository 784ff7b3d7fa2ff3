"""The response of one candidate while it grows, and the trajectory it becomes."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from darts_async.engines.base import EngineOutput, FinishReason
from darts_async.errors import RolloutError
from darts_async.messages import Trajectory, VersionSpan


class ResponseBuffer:
    """Joins an engine's outputs, over one stream or, for a candidate that was parked, several.

    Four bytes a token and a log-prob; nothing is copied when it is done.
    """

    def __init__(self) -> None:
        self._tokens = array("i")
        self._logprobs = array("f")
        self._spans: tuple[VersionSpan, ...] = ()
        self._start = 0
        """Where the stream that is being read began: tokens before it are of streams that were aborted."""
        self.finish_reason: FinishReason | None = None

    @property
    def num_tokens(self) -> int:
        """Response tokens so far."""
        return len(self._tokens)

    def extend(self, output: EngineOutput) -> None:
        """Take the next output. Raises `RolloutError` when it has not one log-prob a token."""
        if len(output.token_ids) != len(output.logprobs):
            counts = f"{len(output.token_ids)} tokens with {len(output.logprobs)} log-probs"
            raise RolloutError(f"the engine sent {counts}")
        self._tokens.extend(output.token_ids)
        self._logprobs.extend(output.logprobs)
        if output.finish_reason is not None:
            self._join(output.version_spans)
        self.finish_reason = output.finish_reason

    def tokens_from(self, start: int) -> npt.NDArray[np.int32]:
        """The tokens so far from index `start` on, int32, copied."""
        return np.frombuffer(self._tokens[start:], np.int32)

    def resume(self) -> list[int]:
        """Begin to read the stream that goes on after an abort; return the tokens that it is to go on from."""
        self._start = len(self._tokens)
        self.finish_reason = None
        return self._tokens.tolist()

    def _join(self, spans: tuple[VersionSpan, ...]) -> None:
        """Append the version spans of the stream that has ended, if it brought a token."""
        before = self._spans[-1].version if self._spans else None
        new = (VersionSpan(span.version, span.start + self._start) for span in spans)
        self._spans += tuple(s for s in new if s.version != before and s.start < len(self._tokens))

    def trajectory(self, candidate_id: int, replica: int) -> Trajectory:
        """Return the finished response. The buffer is done with; `RolloutError` if it breaks the contract."""
        assert self.finish_reason in {"stop", "length"}
        try:
            return Trajectory(
                candidate_id=candidate_id,
                replica=replica,
                finish_reason="length" if self.finish_reason == "length" else "stop",
                response_tokens=np.frombuffer(self._tokens, np.int32),
                behaviour_logprobs=np.frombuffer(self._logprobs, np.float32),
                version_spans=self._spans,
            )
        except ValueError as error:
            raise RolloutError(f"the engine's response breaks the contract: {error}") from error
