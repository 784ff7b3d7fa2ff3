"""To and from the generators: requests and credits, progress and trajectories, cancels, streamed tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from darts_async.messages.base import (
    MAX_TOKENS,
    CandidateIds,
    LongText,
    Message,
    NonNegative,
    Role,
    VersionSpans,
    check_array,
    check_spans,
)


class RolloutRequest(Message, frozen=True, kw_only=True):
    """One candidate to sample. All requests of a group go to one replica."""

    candidate_id: NonNegative
    prompt_tokens: np.ndarray
    """int32 [prompt_len]."""
    seed: NonNegative
    """Seed of the sampler: a hash of (run seed, prompt id, candidate id of the draw, attempt)."""
    max_response_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    min_policy_version: NonNegative
    """The replica holds the request until its confirmed weight version is at least this."""
    incarnation: NonNegative = 0
    """Which start of the replica granted the credit for it: any other one takes no notice of it."""
    allocator: NonNegative = 0
    """Which start of the allocator sends it: a replica that knows a later one takes no notice of it."""

    def __post_init__(self) -> None:
        check_array("prompt_tokens", self.prompt_tokens, np.int32)
        if self.prompt_tokens.size == 0:
            raise ValueError("a rollout needs a prompt")


class EvaluationDone(Message, frozen=True, kw_only=True):
    """The evaluation of this version, and of all before it, is over: replicas that serve it may go on to later ones."""

    version: NonNegative


class LatencySamples(Message, frozen=True, kw_only=True):
    """Per-token latency that a replica measured, by how many candidates were decoding (for the budget)."""

    replica: NonNegative
    concurrency: np.ndarray
    """int32 [num]."""
    per_token_s: np.ndarray
    """float32 [num]: seconds from one token of a candidate to its next."""

    def __post_init__(self) -> None:
        check_array("concurrency", self.concurrency, np.int32)
        check_array("per_token_s", self.per_token_s, np.float32, self.concurrency.size)


class Credits(Message, frozen=True, kw_only=True):
    """How many candidates a replica has ever been ready to take (cumulative, so a repeat does no harm)."""

    replica: NonNegative
    incarnation: NonNegative = 0
    """Which start of the replica: totals of another one mean nothing."""
    allocator: NonNegative = 0
    """Which start of the allocator they are granted to; see `AllocatorStarted`."""
    granted_total: NonNegative


# --- generator -> selector (trajectories link) ---


class Progress(Message, frozen=True, kw_only=True):
    """Token counts of running candidates: lower bounds on their lengths."""

    replica: NonNegative
    candidate_ids: np.ndarray
    """int64 [num]."""
    num_tokens: np.ndarray
    """int32 [num]: response tokens so far."""

    def __post_init__(self) -> None:
        check_array("candidate_ids", self.candidate_ids, np.int64)
        check_array("num_tokens", self.num_tokens, np.int32, self.candidate_ids.size)


class Trajectory(Message, frozen=True, kw_only=True):
    """A response that ended by itself (`stop`) or at the cap (`length`)."""

    candidate_id: NonNegative
    replica: NonNegative
    finish_reason: Literal["stop", "length"]
    response_tokens: np.ndarray
    """int32 [response_len], EOS included."""
    behaviour_logprobs: np.ndarray
    """float32 [response_len]: log-prob of each sampled token under the engine, at the sampling temperature."""
    version_spans: VersionSpans

    def __post_init__(self) -> None:
        check_array("response_tokens", self.response_tokens, np.int32)
        check_array("behaviour_logprobs", self.behaviour_logprobs, np.float32, self.response_tokens.size)
        if self.response_tokens.size == 0:
            raise ValueError("a trajectory has at least one token")
        check_spans(self.version_spans, self.response_tokens.size)


class RolloutEnded(Message, frozen=True, kw_only=True):
    """A candidate that ended without a trajectory: cancelled on request, or failed. The final token count."""

    candidate_id: NonNegative
    replica: NonNegative
    reason: Literal["cancelled", "failed"]
    num_tokens: NonNegative
    error: LongText = ""
    cancel_latency_s: float | None = None
    """From the selector's decision to the return of the engine's abort (same host, monotonic clock)."""


class StreamEnd(Message, frozen=True, kw_only=True):
    """The last message of a sender: everything it had to say has been said."""

    role: Role
    rank: NonNegative


# --- selector -> generator (cancels link) ---


class GeneratorHello(Message, frozen=True, kw_only=True):
    """A replica introduces itself on the cancels and policy links so that it can be addressed."""

    replica: NonNegative
    incarnation: NonNegative = 0
    """Which start of it: news of the loss of an earlier one may come later, on another link."""


class CancelRollouts(Message, frozen=True, kw_only=True):
    """Abort these candidates in the engine now."""

    candidate_ids: CandidateIds
    decided_at_s: float
    """`time.monotonic()` of the decision, on the selector's host."""


class DropBelow(Message, frozen=True, kw_only=True):
    """Every candidate of a group below this number is over: abort what runs, refuse what still arrives. State, not an
    event: the latest counts, and whoever says hello is told."""

    group_id: NonNegative


class ParkRollouts(Message, frozen=True, kw_only=True):
    """Stop these candidates, keep their tokens, and go on with them, under their ids, once a version is served.

    The prefix stays where it was made: nothing of it travels, and its credit stays taken.
    """

    candidate_ids: CandidateIds
    resume_version: NonNegative
    """Where this version is served already there is nothing to park."""


class StreamRollouts(Message, frozen=True, kw_only=True):
    """These candidates are certain to be kept (unless they fail or hit the cap): send their tokens on to the learner
    as they come. Sent at most once for a candidate, only with token streaming (`queues.chunk_tokens`).
    """

    candidate_ids: CandidateIds


# --- generator -> learner (chunks link; token streaming) ---


class TrajectoryChunk(Message, frozen=True, kw_only=True):
    """Tokens of a response that still decodes. The chunks of a candidate join without gaps, in order."""

    candidate_id: NonNegative
    start: NonNegative
    """Index in the response of the first token."""
    prompt_tokens: np.ndarray
    """int32 [prompt_len] in the first chunk (start 0), empty in the others."""
    response_tokens: np.ndarray
    """int32 [num], at least one."""

    def __post_init__(self) -> None:
        check_array("prompt_tokens", self.prompt_tokens, np.int32)
        check_array("response_tokens", self.response_tokens, np.int32)
        if (self.prompt_tokens.size > 0) != (self.start == 0):
            raise ValueError("the prompt comes with the first chunk and with no other")
        if self.response_tokens.size == 0:
            raise ValueError("a chunk has at least one token")


class ChunksDropped(Message, frozen=True, kw_only=True):
    """These candidates will not be trained on after all: forget their chunks. From the generator (cancelled, failed)
    or, on the groups link, from the selector (the group was rejected)."""

    candidate_ids: CandidateIds
