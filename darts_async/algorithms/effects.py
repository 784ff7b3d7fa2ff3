"""What the selector's decisions ask of the actor: messages to send, responses to score, records to write."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from darts_async.algorithms.ledger_records import LedgerRecord
from darts_async.messages import ChunksDropped, PlanReply, StateTaken, StepMetrics, TrainGroup

__all__ = ["Cancel", "Drop", "Effects", "Park", "ScoreWanted", "Stream"]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Abort these candidates, on the replica that has them (None: not known yet, ask all)."""

    replica: int | None
    candidate_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Park:
    """Pause these candidates until a version is served, on the replica that has them (None: not known yet, ask all)."""

    replica: int | None
    candidate_ids: tuple[int, ...]
    resume_version: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Send the tokens of these candidates on to the learner as they come, from the replica that has them."""

    replica: int | None
    candidate_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Every candidate of a group below this number is over, on all replicas."""

    below: int


@dataclass(frozen=True, slots=True)
class ScoreWanted:
    """Score this response and bring the reward back."""

    candidate_id: int
    prompt_id: str
    tokens: np.ndarray
    """int32 [response_len]."""


@dataclass(slots=True)
class Effects:
    """What is to be sent, in order within each list."""

    cancels: list[Cancel | Park | Stream | Drop] = field(default_factory=list)
    """In one list, because they share a link and must not overtake each other."""
    replies: list[tuple[str, PlanReply]] = field(default_factory=list)
    """(the allocator's name, message)."""
    scores: list[ScoreWanted] = field(default_factory=list)
    groups: list[TrainGroup | StateTaken | ChunksDropped] = field(default_factory=list)
    steps: list[StepMetrics] = field(default_factory=list)
    records: list[LedgerRecord] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.scores or self.replies or self.cancels or self.groups or self.steps)
