"""Between allocator and selector: plans of groups, what became of them, and where dispatch goes on."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from darts_async.messages.base import (
    MAX_CANDIDATES,
    CandidateIds,
    Message,
    NonNegative,
    Purpose,
    ShortText,
    check_array,
    group_of,
)


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
        check_array("prompt_tokens", self.prompt_tokens, np.int32)
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
