"""What the ledger on disk consists of: one MessagePack map a record, told apart by `kind`.

The order of a candidate's life is the order of its records: `plan` (or `replace`), then exactly one `candidate`. A run
goes on from its ledger alone (`selector_recovery`), so all that a resumed run must know of the past is in here.
Decoding checks types and bounds; whether the records fit together is `ledger_audit`'s to say.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from darts_async.messages import (
    MAX_CANDIDATES,
    CandidateIds,
    GroupIds,
    KnobChanges,
    LedgerState,
    LongText,
    NonNegative,
    ObservedLength,
    Purpose,
    Role,
    ShortText,
)

__all__ = [
    "LEDGER_FORMAT",
    "CandidateEnded",
    "CandidateReplaced",
    "EvaluationScored",
    "GroupEnded",
    "GroupPlanned",
    "GroupReleased",
    "KeptCandidate",
    "KnobsSet",
    "LedgerRecord",
    "NumbersReserved",
    "RoleRestarted",
    "RunClosed",
    "RunOpened",
    "RunReopened",
    "SegmentOpened",
    "StepTrained",
    "is_lost",
]

LEDGER_FORMAT: Final = 3
"""Raised whenever a record changes shape."""

DEFERRED: Final = "deferred"
"""Why a group was cancelled whose draw starts again in a long round (`rounds`)."""


def is_lost(reason: str) -> bool:
    """Whether a group ended because it was lost with a role."""
    return reason.endswith("_lost")


Lengths = Annotated[tuple[ObservedLength, ...], msgspec.Meta(max_length=MAX_CANDIDATES)]
Totals = Annotated[dict[ShortText, NonNegative], msgspec.Meta(max_length=64)]


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Base of all records."""


class SegmentOpened(_Record, frozen=True, kw_only=True, tag="segment"):
    """First record of every file of the ledger; about the files, not about the run."""

    format: NonNegative
    run_id: ShortText
    """Drawn when the ledger was made; the same in all its segments."""
    segment: NonNegative
    """Number of this file."""
    sequence: NonNegative
    """Number of this record among all of the ledger."""


class RunOpened(_Record, frozen=True, kw_only=True, tag="open"):
    """First record of a run."""

    run: ShortText
    seed: int
    rule: ShortText


class RunReopened(_Record, frozen=True, kw_only=True, tag="reopen"):
    """Another process goes on with the ledger from here. What was open still is."""

    cut_bytes: NonNegative
    """Of an unfinished write at the end of the last segment."""


class GroupPlanned(_Record, frozen=True, kw_only=True, tag="plan"):
    """A group whose candidates are in the books from here on."""

    group_id: NonNegative
    draw: NonNegative
    """Of the prompt order. A draw is planned again, under another number, only when its group was cut off or lost."""
    prompt_id: ShortText
    purpose: Purpose = "train"
    """Written down so that a reader can check it: evaluations have no place in the ledger."""
    rule: ShortText
    group_size: NonNegative
    keep_longest: NonNegative
    candidate_ids: CandidateIds
    dispatch_version: NonNegative


class CandidateReplaced(_Record, frozen=True, kw_only=True, tag="replace"):
    """A candidate that is in the books in the place of one that failed."""

    failed_id: NonNegative
    candidate_id: NonNegative


class CandidateEnded(_Record, frozen=True, kw_only=True, tag="candidate"):
    """The end of a candidate: exactly one record each."""

    candidate_id: NonNegative
    state: LedgerState
    tokens: NonNegative
    estimated: bool = False
    """The token count is the last progress."""
    capped: bool = False
    """Ended at max_response_tokens."""
    reward: float | None = None
    reason: LongText = ""
    """Why it failed."""


class KeptCandidate(msgspec.Struct, frozen=True, array_like=True):
    """A candidate that the learner was given. Its own record comes when the group is over."""

    candidate_id: NonNegative
    tokens: NonNegative
    reward: float
    capped: bool = False


class GroupReleased(_Record, frozen=True, kw_only=True, tag="release"):
    """A group is on its way to the learner; in the file before it leaves, so that no draw is trained twice."""

    group_id: NonNegative
    step: NonNegative
    """The step it was released for."""
    kept: Annotated[tuple[KeptCandidate, ...], msgspec.Meta(max_length=MAX_CANDIDATES)]
    lengths: Lengths
    """Of all candidates: what its outcome will say."""
    zero_variance: bool = False
    rescued: bool = False


class GroupEnded(_Record, frozen=True, kw_only=True, tag="group"):
    """What became of a group."""

    group_id: NonNegative
    outcome: Literal["trained", "rejected", "stale", "cancelled"]
    version: NonNegative | None = None
    """The policy version that its step made."""
    reason: LongText = ""
    lengths: Lengths = ()
    """Of its candidates, as far as they say something about the prompt (`BatchAllocation.observe`)."""

    @property
    def starts_again(self) -> bool:
        """Whether the group's draw is still to be trained: it was cut off, or lost with a role."""
        return self.outcome == "cancelled" or is_lost(self.reason)


class StepTrained(_Record, frozen=True, kw_only=True, tag="step"):
    """The learner finished a step."""

    version: NonNegative
    group_ids: GroupIds


class KnobsSet(_Record, frozen=True, kw_only=True, tag="set"):
    """Settings were changed while the run went on."""

    changes: KnobChanges
    """Key to the old and the new value."""
    at_s: float
    """Seconds since the start of the launcher that gave the order."""


class EvaluationScored(_Record, frozen=True, kw_only=True, tag="eval"):
    """The held-out set was scored under a version. (Its candidates are not in the ledger.)"""

    label: Literal["before", "during", "after"]
    version: NonNegative
    reward: float
    response_length: float
    num_rollouts: NonNegative


class NumbersReserved(_Record, frozen=True, kw_only=True, tag="numbers"):
    """Group numbers below this may be in use, by evaluations too, from here on: whoever goes on starts there."""

    below: NonNegative


class RoleRestarted(_Record, frozen=True, kw_only=True, tag="restart"):
    """A start of a role was lost. For the reader: what followed from it is in the other records."""

    role: Role
    rank: NonNegative
    incarnation: NonNegative
    """Of the start that is over; 0 is the first."""


class RunClosed(_Record, frozen=True, kw_only=True, tag="close"):
    """Last record of a ledger that was closed in good order: the totals of the whole ledger."""

    rollouts: Totals
    """`generated`, and by state."""
    tokens: Totals
    """`generated`, and by state."""
    estimated: NonNegative
    """Candidates whose token count is their last progress."""


LedgerRecord: TypeAlias = (
    RunOpened
    | RunReopened
    | NumbersReserved
    | RoleRestarted
    | GroupPlanned
    | CandidateReplaced
    | CandidateEnded
    | GroupReleased
    | GroupEnded
    | StepTrained
    | EvaluationScored
    | KnobsSet
    | RunClosed
)
