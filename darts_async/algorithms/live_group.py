"""A group in the selector's hands: its plan, its state, and the responses it still needs to hold.

Invariant: a response is held only while it may still be trained on; what is not kept is let go at the decision, the
kept ones when the `TrainGroup` is made.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from darts_async.algorithms.group import Candidate, GroupState, Status
from darts_async.messages import GroupOutcome, GroupPlan, ObservedLength, TrainGroup, Trajectory, candidate_id

__all__ = ["LiveGroup"]


class LiveGroup:
    """One group from its plan to its outcome, and on until every candidate's final report is in."""

    __slots__ = (
        "_finished_at_s",
        "_held",
        "_lengths",
        "_placed",
        "announced",
        "ended",
        "last_pick_wait_s",
        "peer",
        "plan",
        "reasons",
        "released",
        "replica",
        "scattered",
        "state",
        "streamed",
    )

    def __init__(self, plan: GroupPlan, peer: str, state: GroupState) -> None:
        self.plan = plan
        self.peer = peer
        """Name of the allocator's dealer."""
        self.state = state
        self.replica: int | None = None
        """The generator that has the group, once one of its candidates was heard of; None if several may have it."""
        self.scattered = False
        """A generator of it was lost: each replacement may be anywhere."""
        self._placed: dict[int, tuple[int, int]] = {}
        """Of a replacement: the replica it was sent to, and which start of it."""
        self.announced = False
        """The allocator knows that nothing of it runs any more."""
        self.released = False
        """It was given to the learner."""
        self.ended = False
        """Its outcome is out."""
        self.reasons: dict[int, str] = {}
        """Index of a failed candidate to why."""
        self.streamed: set[int] = set()
        """Indices of the candidates whose tokens go to the learner as they come."""
        self._held: dict[int, Trajectory] = {}
        self._lengths: tuple[ObservedLength, ...] | None = None
        self._finished_at_s: dict[int, float] = {}
        self.last_pick_wait_s: float | None = None
        """From the event at which all picks but one had finished to the completion; None while it is not complete."""

    @property
    def trains(self) -> bool:
        """Whether the group counts in the books (evaluations do not)."""
        return self.plan.purpose == "train"

    @property
    def finished(self) -> list[Candidate]:
        """Candidates that finished and are scored, in order of index."""
        return [c for c in self.state.candidates if c.status is Status.FINISHED and c.reward is not None]

    @property
    def lengths(self) -> tuple[ObservedLength, ...]:
        """What its candidates say about the prompt: a cancelled one is longer than what decided against it."""
        if self._lengths is not None:
            return self._lengths
        lengths = []
        for candidate in self.state.candidates:
            if candidate.status is Status.FINISHED:
                lengths.append(ObservedLength(candidate.tokens, censored=False))
            elif candidate.status is Status.CANCELLED:
                lengths.append(ObservedLength(candidate.exceeds, censored=True))
        return tuple(lengths)

    @property
    def kept_ids(self) -> tuple[int, ...]:
        """Ids of the kept candidates; empty before the decision."""
        return tuple(candidate_id(self.plan.group_id, index) for index in self.state.kept)

    def restore_release(self, lengths: tuple[ObservedLength, ...]) -> None:
        """An earlier start of the selector gave it to the learner, and wrote down its lengths."""
        self.released = self.announced = True
        self._lengths = lengths

    def place_of(self, index: int) -> tuple[int, int] | None:
        """The replica that a candidate was sent to, and which start of it; None: it was not sent yet."""
        if candidate_id(self.plan.group_id, index) in self.plan.candidate_ids:
            return self.plan.replica, self.plan.incarnation
        return self._placed.get(index)

    def place(self, index: int, replica: int, incarnation: int) -> None:
        """A replacement is sent there."""
        self._placed[index] = (replica, incarnation)

    def seen_at(self, replica: int) -> None:
        """A candidate of it was heard of from there."""
        if not self.scattered:
            self.replica = replica

    def scatter(self) -> None:
        """A generator that it was on is gone; whoever takes a replacement has to be asked for among all."""
        self.scattered, self.replica = True, None

    def hold(self, index: int, trajectory: Trajectory, now_s: float) -> None:
        """Keep a response until the decision."""
        self._held[index] = trajectory
        self._finished_at_s[index] = now_s

    def completed(self, now_s: float) -> None:
        """The picks are kept: note how long the last of them was waited for."""
        *others, _ = sorted(self._finished_at_s[index] for index in self.state.kept)
        self.last_pick_wait_s = now_s - others[-1] if others else 0.0

    def let_go(self) -> None:
        """Drop every response that was not kept."""
        self._held = {index: self._held[index] for index in self.state.kept}

    def train_group(self, step: int) -> TrainGroup:
        """Build the message for the learner and drop the responses."""
        kept = [self.state.candidate(index) for index in self.state.kept]
        responses = [self._held[candidate.index] for candidate in kept]
        self._held = {}
        self.released = True
        baseline = self.finished if self.state.wait_for_all_rewards else kept
        return TrainGroup(
            group_id=self.plan.group_id,
            prompt_id=self.plan.prompt_id,
            step=step,
            prompt_tokens=self.plan.prompt_tokens,
            candidate_ids=self.kept_ids,
            lengths=np.array([r.response_tokens.size for r in responses], dtype=np.int32),
            response_tokens=np.concatenate([r.response_tokens for r in responses]),
            behaviour_logprobs=np.concatenate([r.behaviour_logprobs for r in responses]),
            version_spans=tuple(r.version_spans for r in responses),
            rewards=np.array([c.reward for c in kept], dtype=np.float32),
            baseline_rewards=np.array([c.reward for c in baseline], dtype=np.float32),
            baseline_lengths=np.array([c.tokens for c in baseline], dtype=np.int32),
            capped=tuple(c.capped for c in kept),
            max_staleness=self.plan.max_staleness,
        )

    def outcome(
        self, outcome: Literal["trained", "rejected", "stale", "evaluated", "cancelled"], reason: str = ""
    ) -> GroupOutcome:
        """What the allocator learns."""
        self._held = {}
        return GroupOutcome(
            group_id=self.plan.group_id,
            prompt_id=self.plan.prompt_id,
            purpose=self.plan.purpose,
            outcome=outcome,
            reason=reason[:256],
            lengths=self.lengths,
            rewards=tuple(c.reward for c in self.finished if c.reward is not None),
        )
