"""What the ledger on disk consists of: one MessagePack map a record, told apart by `kind`.

The order of a candidate's life is the order of its records: `plan` (or `replace`), then exactly one `candidate`.
Decoding checks types and bounds; whether the records fit together is `ledger_audit`'s to say.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from darts_async.messages import (
    CandidateIds,
    GroupIds,
    KnobChanges,
    LedgerState,
    LongText,
    NonNegative,
    Purpose,
    ShortText,
)

__all__ = [
    "LEDGER_FORMAT",
    "CandidateEnded",
    "CandidateReplaced",
    "GroupEnded",
    "GroupPlanned",
    "KnobsSet",
    "LedgerRecord",
    "RunClosed",
    "RunOpened",
    "RunReopened",
    "SegmentOpened",
    "StepTrained",
]

LEDGER_FORMAT: Final = 2
"""Raised whenever a record changes shape."""

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


class GroupEnded(_Record, frozen=True, kw_only=True, tag="group"):
    """What became of a group."""

    group_id: NonNegative
    outcome: Literal["trained", "rejected", "stale", "cancelled"]
    version: NonNegative | None = None
    """The policy version that its step made."""
    reason: LongText = ""


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
    | GroupPlanned
    | CandidateReplaced
    | CandidateEnded
    | GroupEnded
    | StepTrained
    | KnobsSet
    | RunClosed
)
