"""To and from the learner: groups, steps, the state of a learner that was started anew, versions of the policy."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from darts_async.messages.base import (
    MAX_CANDIDATES,
    CandidateIds,
    GroupIds,
    LongText,
    Message,
    NonNegative,
    ShortText,
    VersionSpans,
    check_array,
    check_spans,
)


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
        check_array("prompt_tokens", self.prompt_tokens, np.int32)
        check_array("lengths", self.lengths, np.int32, size)
        total = int(self.lengths.sum())
        check_array("response_tokens", self.response_tokens, np.int32, total)
        check_array("behaviour_logprobs", self.behaviour_logprobs, np.float32, total)
        check_array("rewards", self.rewards, np.float32, size)
        check_array("baseline_rewards", self.baseline_rewards, np.float32)
        check_array("baseline_lengths", self.baseline_lengths, np.int32, self.baseline_rewards.size)
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
