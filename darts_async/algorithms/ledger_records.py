"""What the ledger on disk consists of: one MessagePack map a record, told apart by `kind`.

The order of a candidate's life is the order of its records: `plan` (or `replace`), then exactly one `candidate`.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from darts_async.messages import LedgerState

__all__ = [
    "LEDGER_FORMAT",
    "CandidateEnded",
    "CandidateReplaced",
    "GroupEnded",
    "GroupPlanned",
    "LedgerRecord",
    "RunClosed",
    "RunOpened",
    "StepTrained",
]

LEDGER_FORMAT: Final = 1
"""Raised whenever a record changes shape."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all records."""


class RunOpened(_Record, frozen=True, kw_only=True, tag="open"):
    """First record of a ledger."""

    format: int
    run: str
    seed: int
    rule: str


class GroupPlanned(_Record, frozen=True, kw_only=True, tag="plan"):
    """A group whose candidates are in the books from here on."""

    group_id: int
    prompt_id: str
    rule: str
    group_size: int
    keep_longest: int
    candidate_ids: tuple[int, ...]
    dispatch_version: int


class CandidateReplaced(_Record, frozen=True, kw_only=True, tag="replace"):
    """A candidate that is in the books in the place of one that failed."""

    failed_id: int
    candidate_id: int


class CandidateEnded(_Record, frozen=True, kw_only=True, tag="candidate"):
    """The end of a candidate: exactly one record each."""

    candidate_id: int
    state: LedgerState
    tokens: int
    estimated: bool = False
    """The token count is the last progress."""
    capped: bool = False
    """Ended at max_response_tokens."""
    reward: float | None = None
    reason: str = ""
    """Why it failed."""


class GroupEnded(_Record, frozen=True, kw_only=True, tag="group"):
    """What became of a group."""

    group_id: int
    outcome: Literal["trained", "rejected", "stale", "cancelled"]
    version: int | None = None
    """The policy version that its step made."""
    reason: str = ""


class StepTrained(_Record, frozen=True, kw_only=True, tag="step"):
    """The learner finished a step."""

    version: int
    group_ids: tuple[int, ...]


class RunClosed(_Record, frozen=True, kw_only=True, tag="close"):
    """Last record of a ledger that was closed in good order: the totals."""

    rollouts: dict[str, int]
    tokens: dict[str, int]
    estimated: int


LedgerRecord: TypeAlias = (
    RunOpened | GroupPlanned | CandidateReplaced | CandidateEnded | GroupEnded | StepTrained | RunClosed
)
