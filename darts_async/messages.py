"""Every message that crosses a process boundary: typed, bounded, validated on arrival, never pickled.

A message is an `msgspec.Struct`; MessagePack on the wire with the type's name as tag. Fields of type `np.ndarray`
travel as extra frames without copies (`darts_async.transport.codec`) and arrive read-only. `__post_init__` states the
invariants between fields; it runs on construction and again on decode, so a peer cannot send what we could not build.

Ids: a group has a number (`group_id`, in order of dispatch); a candidate's id is its group's number and its index in
the group in one integer, so that either can be read back without a table (`candidate_id`, `group_of`, `index_of`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np

SCHEMA_VERSION = 3
"""Raised whenever a message changes shape; peers that disagree refuse each other at READY."""

MAX_CANDIDATES = 1024
"""Candidates of one group, replacements included: the low 10 bits of a candidate id."""

MAX_TOKENS = 1 << 20
"""Tokens of one prompt or one response. A bound against garbage, not a tuning knob."""

Role: TypeAlias = Literal["allocator", "generator", "selector", "learner"]
ROLES: tuple[Role, ...] = ("allocator", "generator", "selector", "learner")

Purpose: TypeAlias = Literal["train", "eval"]
"""What a group is for. Groups of purpose `eval` are scored and reported, never selected from, cancelled, trained on
or counted in the run's ledger."""

LedgerState: TypeAlias = Literal["trained", "rejected", "cancelled_tail", "stale", "failed", "cancelled_shutdown"]
LEDGER_STATES: tuple[LedgerState, ...] = (
    "trained",
    "rejected",
    "cancelled_tail",
    "stale",
    "failed",
    "cancelled_shutdown",
)

NonNegative = Annotated[int, msgspec.Meta(ge=0)]
ShortText = Annotated[str, msgspec.Meta(max_length=256)]
LongText = Annotated[str, msgspec.Meta(max_length=8192)]
CandidateIds = Annotated[tuple[NonNegative, ...], msgspec.Meta(max_length=MAX_CANDIDATES)]
GroupIds = Annotated[tuple[NonNegative, ...], msgspec.Meta(max_length=1 << 16)]


def candidate_id(group_id: int, index: int) -> int:
    """Pack a group's number and a candidate's index in it into one id. Raises `ValueError` out of range."""
    if not 0 <= index < MAX_CANDIDATES or group_id < 0:
        raise ValueError(f"no candidate id for group {group_id}, index {index}")
    return group_id * MAX_CANDIDATES + index


def group_of(candidate: int) -> int:
    """Return the number of the group that a candidate belongs to."""
    return candidate // MAX_CANDIDATES


def index_of(candidate: int) -> int:
    """Return a candidate's index within its group."""
    return candidate % MAX_CANDIDATES


def _check_array(name: str, array: np.ndarray, dtype: type[np.generic], length: int | None = None) -> None:
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise ValueError(f"{name} must be a 1-d {np.dtype(dtype)} array, got {array.dtype} {array.shape}")
    if array.size > MAX_CANDIDATES * MAX_TOKENS:
        raise ValueError(f"{name} has {array.size} elements")
    if length is not None and array.size != length:
        raise ValueError(f"{name} has {array.size} elements where {length} were announced")


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, eq=False):
    """Base of everything on the wire. Compared by identity (array fields have no truth value)."""


class VersionSpan(msgspec.Struct, frozen=True, array_like=True):
    """Tokens from `start` (index in the response) up to the next span were sampled by `version` of the policy."""

    version: NonNegative
    start: NonNegative


VersionSpans = Annotated[tuple[VersionSpan, ...], msgspec.Meta(max_length=4096)]


def check_spans(spans: tuple[VersionSpan, ...], num_tokens: int) -> None:
    """Raise `ValueError` unless the spans start at 0, are increasing in start and version, and lie in the response."""
    if num_tokens and (not spans or spans[0].start != 0):
        raise ValueError("version spans must cover the response from its first token")
    for before, after in pairwise(spans):
        if after.start <= before.start or after.version <= before.version:
            raise ValueError(f"version spans must increase: {before} then {after}")
    if spans and spans[-1].start >= max(num_tokens, 1):
        raise ValueError(f"version span {spans[-1]} starts behind a response of {num_tokens} tokens")


# --- allocator -> selector (plans link; answers come back on it) ---


class GroupPlan(Message, frozen=True, kw_only=True):
    """A group about to be dispatched. Nothing of it is dispatched before `PlanAccepted` comes back."""

    group_id: NonNegative
    draw: NonNegative = 0
    """Which draw of the prompt order the group is for, from 0 (of an evaluation: which held-out prompt). A group that
    was lost with a role starts again under a new number and the same draw: seeds and survivor draws follow the draw, so
    that the same responses come out of a deterministic engine."""
    replica: NonNegative = 0
    """The generator that its requests go to."""
    incarnation: NonNegative = 0
    """Which start of that generator: if it is not the present one, the group's candidates are lost already."""
    prompt_id: ShortText
    purpose: Purpose = "train"
    rule: ShortText
    """Name in the registry of selection rules."""
    group_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_CANDIDATES)]
    """n: the number of candidates to train on."""
    keep_longest: NonNegative
    """L: how many of the n come from the long end."""
    candidate_ids: CandidateIds
    dispatch_version: NonNegative
    """Lower bound on the policy version of every token of the group; its deadline is this + max_staleness."""
    max_staleness: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    """The bound that it was admitted under, which holds for it even if the run's bound changes later. None: the run's
    as it was at the start."""
    unfinished: Literal["keep", "defer", "resume"] = "keep"
    """What becomes of the group when a step is filled without it while it is unfinished: it goes on, it is ended
    (outcome `cancelled`, reason `deferred`), or its candidates pause until the next version and keep their tokens."""
    prompt_tokens: np.ndarray
    """int32 [prompt_len]."""

    def __post_init__(self) -> None:
        _check_array("prompt_tokens", self.prompt_tokens, np.int32)
        if any(group_of(c) != self.group_id for c in self.candidate_ids):
            raise ValueError(f"group {self.group_id} was planned with another group's candidates")
        if not self.candidate_ids:
            raise ValueError(f"group {self.group_id} has no candidates")


class CandidatePlaced(Message, frozen=True, kw_only=True):
    """Where the replacement of a failed candidate goes; said before its request leaves, so that it is known who was
    lost with a replica. (The others go where their group's plan says.)"""

    candidate_id: NonNegative
    replica: NonNegative
    incarnation: NonNegative
    """Which start of that generator: if it is not the present one, the candidate is lost already."""


# --- selector -> allocator ---


class OpenGroup(msgspec.Struct, frozen=True, array_like=True):
    """A group that outlives the allocator that planned it: it was given to the learner."""

    group_id: NonNegative
    draw: NonNegative
    prompt_id: ShortText


class LostDraw(msgspec.Struct, frozen=True, array_like=True):
    """A draw whose group was lost: it starts again with what it was planned with."""

    draw: NonNegative
    num_candidates: Annotated[int, msgspec.Meta(ge=0, le=MAX_CANDIDATES)]
    """0: it was never planned, and is allotted like any other."""
    rule: ShortText = ""


Draws = Annotated[tuple[NonNegative, ...], msgspec.Meta(max_length=1 << 16)]


class RoundsState(msgspec.Struct, frozen=True, array_like=True):
    """Where the rounds stand (`algorithms.rounds`), for an allocator that starts in the middle."""

    version: NonNegative = 0
    num_filled: NonNegative = 0
    is_long: bool = False
    queue: Draws = ()
    """Deferred draws, in order."""
    turn: Draws = ()
    """Of the long round under way, those that have not started."""


class DispatchState(Message, frozen=True, kw_only=True):
    """Where dispatch goes on: the selector's answer to `AllocatorHello`, when the run begins and when one of the two
    was started anew. Every group below `first_group` that is not in `open` is over, whatever the allocator remembers.
    """

    number: NonNegative = 0
    """Of the hello that it answers: an allocator takes the answer to its last one."""
    first_group: NonNegative
    """The next group gets this number."""
    next_draw: NonNegative
    """Draws of the prompt order that were ever planned: it goes on from here."""
    redo: Annotated[tuple[LostDraw, ...], msgspec.Meta(max_length=1 << 16)] = ()
    """Draws whose groups were lost: they start again first, in this order."""
    open: Annotated[tuple[OpenGroup, ...], msgspec.Meta(max_length=1 << 16)] = ()
    trained: NonNegative = 0
    """Groups trained so far."""
    version: NonNegative = 0
    """Of the last step that is in the ledger."""
    rounds: RoundsState = RoundsState()
    ledger_records: NonNegative = 0
    """Length of the ledger's file up to here, in records and heads: what an allocator reads to know what was learned
    of the prompts."""
    evaluated: tuple[tuple[NonNegative, float, float], ...] = ()
    """(version, reward, response length) of the evaluations that are over."""


class PlanAccepted(Message, frozen=True, kw_only=True):
    """The selector owns the group: its candidates are in the ledger from now on."""

    group_id: NonNegative


class ReplaceCandidate(Message, frozen=True, kw_only=True):
    """A candidate failed; dispatch `candidate_id` in its place (once per failure, already in the ledger)."""

    group_id: NonNegative
    failed_id: NonNegative
    candidate_id: NonNegative


class StepFilled(Message, frozen=True, kw_only=True):
    """All slots of a step are taken; the outcomes of the groups that were deferred for it have been sent before."""

    step: NonNegative


class GroupComplete(Message, frozen=True, kw_only=True):
    """All candidates of a group are decided: it no longer occupies a generator, it waits for the learner."""

    group_id: NonNegative


class ObservedLength(msgspec.Struct, frozen=True, array_like=True):
    """One observation of a response length, in tokens, EOS included; censored means `length > tokens`."""

    tokens: NonNegative
    censored: bool


class GroupOutcome(Message, frozen=True, kw_only=True):
    """A group reached its end and no longer counts as live."""

    group_id: NonNegative
    prompt_id: ShortText
    purpose: Purpose = "train"
    outcome: Literal["trained", "rejected", "stale", "evaluated", "cancelled"]
    reason: ShortText = ""
    lengths: Annotated[tuple[ObservedLength, ...], msgspec.Meta(max_length=MAX_CANDIDATES)] = ()
    rewards: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_CANDIDATES)] = ()
    """Rewards of all finished candidates, in order of candidate index."""


# --- allocator -> generator (rollouts link, credits come back on it) ---


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
        _check_array("prompt_tokens", self.prompt_tokens, np.int32)
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
        _check_array("concurrency", self.concurrency, np.int32)
        _check_array("per_token_s", self.per_token_s, np.float32, self.concurrency.size)


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
        _check_array("candidate_ids", self.candidate_ids, np.int64)
        _check_array("num_tokens", self.num_tokens, np.int32, self.candidate_ids.size)


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
        _check_array("response_tokens", self.response_tokens, np.int32)
        _check_array("behaviour_logprobs", self.behaviour_logprobs, np.float32, self.response_tokens.size)
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
        _check_array("prompt_tokens", self.prompt_tokens, np.int32)
        _check_array("response_tokens", self.response_tokens, np.int32)
        if (self.prompt_tokens.size > 0) != (self.start == 0):
            raise ValueError("the prompt comes with the first chunk and with no other")
        if self.response_tokens.size == 0:
            raise ValueError("a chunk has at least one token")


class ChunksDropped(Message, frozen=True, kw_only=True):
    """These candidates will not be trained on after all: forget their chunks. From the generator (cancelled, failed)
    or, on the groups link, from the selector (the group was rejected)."""

    candidate_ids: CandidateIds


# --- selector -> learner (groups link), learner -> selector (steps link) ---


class TrainGroup(Message, frozen=True, kw_only=True):
    """A selected group, complete with rewards. Groups arrive in the order they are to be trained."""

    group_id: NonNegative
    prompt_id: ShortText
    step: NonNegative
    """The step the group was planned for (uses policy version `step`, makes `step + 1`). The learner trains groups in
    the order they arrive; after a sweep they move up, so a group may be trained one step before its plan."""
    prompt_tokens: np.ndarray
    """int32 [prompt_len]."""
    candidate_ids: CandidateIds
    lengths: np.ndarray
    """int32 [group_size]: response tokens per kept candidate."""
    response_tokens: np.ndarray
    """int32 [sum(lengths)]: the kept responses, one after the other."""
    behaviour_logprobs: np.ndarray
    """float32 [sum(lengths)]."""
    version_spans: Annotated[tuple[VersionSpans, ...], msgspec.Meta(max_length=MAX_CANDIDATES)]
    rewards: np.ndarray
    """float32 [group_size]."""
    baseline_rewards: np.ndarray
    """float32 [>= group_size]: the rewards that the advantage's baseline is computed over."""
    baseline_lengths: np.ndarray
    """int32 [as many]: the lengths of those responses, in tokens (for length-dependent shaping)."""
    capped: Annotated[tuple[bool, ...], msgspec.Meta(max_length=MAX_CANDIDATES)]
    """Which responses ended at `max_response_tokens`."""
    max_staleness: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    """As in its plan."""
    epoch: NonNegative = 0
    """Of the last `LearnerState` that the selector had taken in when it sent this; 0 before any. The learner ignores
    groups of an earlier epoch: what it lacks of them comes again."""

    def __post_init__(self) -> None:
        size = len(self.candidate_ids)
        _check_array("prompt_tokens", self.prompt_tokens, np.int32)
        _check_array("lengths", self.lengths, np.int32, size)
        total = int(self.lengths.sum())
        _check_array("response_tokens", self.response_tokens, np.int32, total)
        _check_array("behaviour_logprobs", self.behaviour_logprobs, np.float32, total)
        _check_array("rewards", self.rewards, np.float32, size)
        _check_array("baseline_rewards", self.baseline_rewards, np.float32)
        _check_array("baseline_lengths", self.baseline_lengths, np.int32, self.baseline_rewards.size)
        if size < 1 or len(self.version_spans) != size or len(self.capped) != size:
            raise ValueError("spans, capped flags and candidates of a group must agree in number")
        if size and int(self.lengths.min()) < 1:
            raise ValueError("a kept response has at least one token")
        for spans, length in zip(self.version_spans, self.lengths.tolist(), strict=True):
            check_spans(spans, length)

    @property
    def oldest_version(self) -> int:
        """The oldest policy version of any token of the group."""
        return min(spans[0].version for spans in self.version_spans)


class StepDone(Message, frozen=True, kw_only=True):
    """The learner finished a step. Must arrive: it is what turns `kept` into `trained`."""

    version: NonNegative
    """The policy version that the step made."""
    group_ids: GroupIds
    last: bool = False
    """Training ends with this step: whatever else is under way will not be trained."""


class TrainedStep(msgspec.Struct, frozen=True, array_like=True):
    """A step that the learner has made."""

    version: NonNegative
    group_ids: GroupIds


class LearnerState(Message, frozen=True, kw_only=True):
    """What the learner has: sent by a learner that takes up what another start of it left, before anything else, and
    whenever the selector was lost. The selector answers with `StateTaken` and sends what was released and is in neither
    list again, in order, as far as it holds it."""

    epoch: Annotated[int, msgspec.Meta(ge=1)]
    """Increases with each `LearnerState` of a run: answers to earlier ones are void, and so are groups sent before."""
    version: NonNegative
    steps: Annotated[tuple[TrainedStep, ...], msgspec.Meta(max_length=1 << 10)] = ()
    """The last steps, oldest first, among them all that a selector may not have heard of."""
    received: GroupIds = ()
    """Groups of the open step that are safe on the learner's disk, in order."""
    last: bool = False
    """Training ended with this version."""


class StateTaken(Message, frozen=True, kw_only=True):
    """The selector has taken a `LearnerState` in. Sent before any group of that epoch."""

    epoch: NonNegative
    over: GroupIds = ()
    """Of the received groups, those that are over: the learner must not train them (the run was drained after they
    were received, so their end is in the ledger)."""


class GroupSwept(Message, frozen=True, kw_only=True):
    """The learner refused a group at its door because its staleness exceeds the bound; its step needs another one."""

    group_id: NonNegative
    staleness: int


# --- learner -> generators, allocator (policy link; level-triggered: a late joiner reads the last one) ---


class PolicyUpdate(Message, frozen=True, kw_only=True):
    """A published version of the policy."""

    version: NonNegative
    weights: LongText
    """Path of the safetensors file; empty for version 0 (the model folder itself)."""
    last: bool = False
    """Training ends with this version: `run.steps` are done, or a limit on time or tokens was reached."""


class PolicyApplied(Message, frozen=True, kw_only=True):
    """A replica serves this version now: the engine confirmed it."""

    replica: NonNegative
    version: NonNegative
    update_ms: float
    """Pause to resume, in milliseconds."""


class AllocatorHello(Message, frozen=True, kw_only=True):
    """The allocator introduces itself on the policy link, and on the plans link, where it asks for `DispatchState`."""

    number: NonNegative = 0
    """Increases with each of its hellos, over all of its starts."""


class AllocatorStarted(Message, frozen=True, kw_only=True):
    """The allocator tells a replica which start of it there is: credits that it gave to an earlier one are void."""

    incarnation: NonNegative


class PolicyScored(Message, frozen=True, kw_only=True):
    """The allocator: the held-out score of a version, so that the learner can keep the best checkpoint."""

    version: NonNegative
    reward: float
    response_length: float


# --- control (all <-> supervisor) ---


class Ready(Message, frozen=True, kw_only=True):
    """A role has loaded what it needs and can work."""

    role: Role
    rank: NonNegative
    pid: NonNegative
    schema_version: NonNegative


class RoleLost(Message, frozen=True, kw_only=True):
    """The supervisor: this start of a role is over; a new one with the next incarnation will follow. Sent to all the
    others before the new process is started. (Its links are bound anew under the same endpoints.)"""

    role: Role
    rank: NonNegative
    incarnation: NonNegative
    """Of the start that is over; 0 is the first."""


class Begin(Message, frozen=True, kw_only=True):
    """All roles are ready."""


class Wait(msgspec.Struct, frozen=True, array_like=True):
    """Something that a role waits for, or is busy with, as it says itself."""

    whom: ShortText
    """Name of the role that has to act, such as `generator-0`; empty: the role itself, which is at work on it."""
    what: ShortText
    """What follows the role's name in a sentence: `waits for 3 more groups of step 12`."""
    age_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Since when nothing about it has changed."""


class Heartbeat(Message, frozen=True, kw_only=True):
    """Periodic sign of life with what progressed, not just that the process exists."""

    role: Role
    rank: NonNegative
    state: ShortText
    """One or two words for the live view, such as `decoding` or `waiting for groups`."""
    gauges: dict[str, float]
    """Metric name to value, names as in the design (`generator/tokens_per_s`, `queue/<name>/depth`)."""
    progress: NonNegative = 0
    """Counts what a person would call progress (tokens, ends, scores, groups, steps), over this start of the role."""
    waits: Annotated[tuple[Wait, ...], msgspec.Meta(max_length=32)] = ()
    """The longest first."""


class StepMetrics(Message, frozen=True, kw_only=True):
    """The learner's record of one step: what becomes a line of `metrics.jsonl`."""

    step: NonNegative
    values: dict[str, float]


class EvalResult(Message, frozen=True, kw_only=True):
    """Scores of the held-out set at one policy version."""

    label: Literal["before", "during", "after"]
    policy_version: NonNegative
    reward: float
    response_length: float
    num_rollouts: NonNegative


class Finished(Message, frozen=True, kw_only=True):
    """A role is done and about to exit with status 0; its part of the summary."""

    role: Role
    rank: NonNegative
    summary: dict[str, float]


class RunComplete(Message, frozen=True, kw_only=True):
    """The allocator: all steps are trained, all evaluations are in; the run can be wound down."""


class Warn(Message, frozen=True, kw_only=True):
    """Something a person should see although the run goes on."""

    role: Role
    rank: NonNegative
    text: LongText


class Fault(Message, frozen=True, kw_only=True):
    """A role cannot go on."""

    role: Role
    rank: NonNegative
    error: LongText
    curable: bool = False
    """Starting the role anew can help: its engine died or a link of its broke, and nothing it was told is wrong."""


KnobValue: TypeAlias = bool | int | float | ShortText | None


class KnobChange(msgspec.Struct, frozen=True, array_like=True):
    """The value of a key of the config, before and after."""

    old: KnobValue
    new: KnobValue


KnobChanges = Annotated[dict[ShortText, KnobChange], msgspec.Meta(max_length=32)]


class SetKnobs(Message, frozen=True, kw_only=True):
    """The supervisor: these settings are others from now on. Checked already; each role heeds what it knows of, as
    often as it is told, and answers `KnobsTaken`."""

    number: NonNegative
    changes: KnobChanges
    at_s: Annotated[float, msgspec.Meta(ge=0)]
    """Seconds since the run's start."""
    again: bool = False
    """Told before, to an earlier start of the role or another one: not to be written down a second time."""


class KnobsTaken(Message, frozen=True, kw_only=True):
    """A role's answer to `SetKnobs`."""

    role: Role
    rank: NonNegative
    number: NonNegative
    refused: LongText = ""
    """Why it could not; empty: it did."""


class ShowStacks(Message, frozen=True, kw_only=True):
    """The supervisor: write to your log where every task stands."""

    reason: LongText


class Stop(Message, frozen=True, kw_only=True):
    """The supervisor asks a role to drain and exit."""

    reason: Literal["done", "interrupted", "fault"]


FromGenerator: TypeAlias = Credits | LatencySamples
FromAllocator: TypeAlias = RolloutRequest | EvaluationDone | AllocatorStarted
ToSelector: TypeAlias = Progress | Trajectory | RolloutEnded | StreamEnd
FromLearner: TypeAlias = StepDone | GroupSwept | LearnerState | StreamEnd
FromAllocatorToSelector: TypeAlias = GroupPlan | CandidatePlaced | AllocatorHello | EvalResult
PlanReply: TypeAlias = PlanAccepted | ReplaceCandidate | StepFilled | GroupComplete | GroupOutcome | DispatchState
ToGenerator: TypeAlias = CancelRollouts | ParkRollouts | StreamRollouts | DropBelow
ToLearner: TypeAlias = TrainGroup | StateTaken | ChunksDropped | StreamEnd
ChunkNews: TypeAlias = TrajectoryChunk | ChunksDropped
ToSupervisor: TypeAlias = (
    Ready | Heartbeat | StepMetrics | EvalResult | Finished | RunComplete | Warn | Fault | KnobsTaken
)
FromSupervisor: TypeAlias = Begin | Stop | RoleLost | SetKnobs | ShowStacks
PolicyReply: TypeAlias = GeneratorHello | AllocatorHello | PolicyApplied | PolicyScored
