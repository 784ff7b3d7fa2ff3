"""The state of one group, from its plan to the verdict on its last candidate.

Takes facts (tokens so far, finished, failed, a reward) in any order, any number of times, and answers each with what
follows from it at that very event: cancels, replacements, verdicts. Invariants:

- every candidate gets exactly one verdict, and a verdict never changes: a cancelled candidate that finishes anyway
  stays cancelled, a rejected one whose reward fails later stays rejected;
- once all candidates are decided and their rewards are in, the group is complete or rejected: it never hangs;
- only running candidates that the rule cannot keep any more are cancelled, at the first event at which that is certain,
  be the kept set known by then or not.

Must never know about tokens' values, sockets, time or other groups.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

from darts_async.algorithms.selection import Contender, Picks, Rule, hopeless, pick, survivor_draw
from darts_async.algorithms.short_set import Key
from darts_async.algorithms.zero_variance import PENDING, ZeroVariance, has_signal, rescue
from darts_async.messages import MAX_CANDIDATES, candidate_id

__all__ = ["NOTHING", "ZERO_VARIANCE", "Candidate", "Decision", "GroupState", "Status", "Verdict"]

Verdict: TypeAlias = Literal["kept", "rejected", "cancelled_tail", "failed"]
"""`kept` becomes `trained` or `stale` later, at the learner."""

MIN_TRAINED: Final = 2
"""Fewest candidates that carry a group-relative signal."""

ZERO_VARIANCE: Final = "zero_variance"
"""Why a group is rejected whose kept rewards are all equal, where those are dropped."""


class Status(Enum):
    """What is known of a candidate. Only a running one can still become something else, or a finished one fail."""

    RUNNING = 0
    FINISHED = 1
    FAILED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from one event."""

    cancel: tuple[int, ...] = ()
    """Running candidates to abort now."""
    replace: tuple[tuple[int, int], ...] = ()
    """(failed index, new index): dispatch a new candidate in its place."""
    verdicts: tuple[tuple[int, Verdict], ...] = ()
    """Every verdict fixed by this event, those of `cancel` and `kept` included."""
    complete: bool = False
    """The group's fate is sealed by this event: `kept` or `rejected_reason` is set."""
    kept: tuple[int, ...] | None = None
    """Indices to train on, in order of index."""
    rejected_reason: str = ""


NOTHING: Final = Decision()
"""The answer to nearly every event."""


@dataclass(slots=True)
class Candidate:
    """One candidate as the group knows it."""

    index: int
    draw: int
    replaceable: bool
    status: Status = Status.RUNNING
    tokens: int = 0
    """Lower bound while it runs, its length once finished."""
    capped: bool = False
    arrival: int = 0
    reward: float | None = None
    components: Mapping[str, float] | None = None
    """The values that the reward is the weighted sum of, by name; None where it has no parts."""
    exceeds: int = 0
    """Of a cancelled one: the length that decided against it, which its own would have exceeded."""

    @property
    def key(self) -> Key | None:
        """Its place in the total order; None while it runs."""
        return (self.capped, self.tokens, self.index) if self.status is Status.FINISHED else None


class GroupState:
    """One group. All methods raise `KeyError` for an index that the group does not have."""

    __slots__ = (
        "_arrivals",
        "_candidates",
        "_certificate",
        "_may_replace",
        "complete",
        "draw",
        "group_id",
        "group_size",
        "keep_longest",
        "kept",
        "picks",
        "rescued",
        "rule",
        "run_seed",
        "settled",
        "wait_for_all_rewards",
        "zero_variance",
        "zero_variance_rule",
    )

    def __init__(
        self,
        *,
        group_id: int,
        draw: int | None = None,
        indices: Iterable[int],
        rule: Rule,
        group_size: int,
        keep_longest: int,
        run_seed: int,
        wait_for_all_rewards: bool = False,
        replace_failed: bool = True,
        zero_variance: ZeroVariance = "keep",
    ) -> None:
        """Raise `ValueError` for sizes that the rule cannot work with, or repeated indices.

        draw: which draw of the prompt order the group is for, if its number does not say; the survivors follow it.
        wait_for_all_rewards: the baseline is over everything that finished, so completion waits for those rewards.
        zero_variance: what happens when all picks have the same reward.
        """
        self.group_id = group_id
        self.draw = group_id if draw is None else draw
        self.rule = rule
        self.group_size = group_size
        self.keep_longest = keep_longest
        self.run_seed = run_seed
        self.settled = False
        """The picks are known (some may still run); from here on nothing is replaced."""
        self.complete = False
        self.kept: tuple[int, ...] = ()
        self.picks = Picks()
        self.wait_for_all_rewards = wait_for_all_rewards
        self.zero_variance_rule: ZeroVariance = zero_variance
        self.zero_variance = False
        """All picks had the same reward."""
        self.rescued = False
        """One of them was swapped for a candidate with another."""
        self._may_replace = replace_failed
        self._certificate = rule.certificate(rule.sizes(group_size, keep_longest)[0])
        self._candidates: dict[int, Candidate] = {}
        self._arrivals = 0
        for index in indices:
            if index in self._candidates:
                raise ValueError(f"group {group_id} lists candidate {index} twice")
            self._add(index, replaceable=replace_failed)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates, replacements included, in order of index."""
        return tuple(sorted(self._candidates.values(), key=lambda c: c.index))

    @property
    def all_decided(self) -> bool:
        """Whether no candidate runs any more: the group does not occupy a generator."""
        return all(c.status is not Status.RUNNING for c in self._candidates.values())

    def candidate(self, index: int) -> Candidate:
        """One candidate."""
        return self._candidates[index]

    def on_progress(self, index: int, tokens: int) -> Decision:
        """A candidate is known to have at least `tokens` tokens. Late and repeated reports do nothing."""
        candidate = self._candidates[index]
        if tokens <= candidate.tokens or candidate.status is Status.FINISHED:
            return NOTHING
        candidate.tokens = tokens
        # Failed and cancelled ones only keep count; after the decision nothing depends on progress.
        if self.settled or candidate.status is not Status.RUNNING:
            return NOTHING
        if self._certificate.progress(index, tokens):
            return self._advance()
        return NOTHING

    def on_finished(self, index: int, length: int, capped: bool) -> Decision:
        """A candidate ended with `length` tokens, at the cap or by itself. Its reward is still to come."""
        candidate = self._candidates[index]
        if candidate.status is not Status.RUNNING:
            if candidate.status is Status.CANCELLED:
                candidate.tokens = max(candidate.tokens, length)
            return NOTHING
        self._arrivals += 1
        candidate.status = Status.FINISHED
        candidate.tokens = length
        candidate.capped = capped
        candidate.arrival = self._arrivals
        if not self.settled:
            self._certificate.finish((capped, length, index))
        return self._advance(repair=capped)

    def on_reward(self, index: int, value: float, components: Mapping[str, float] | None = None) -> Decision:
        """The score of a finished candidate is in. One that is not finite counts as a failure.

        components: what it is made of; decides nothing.
        """
        candidate = self._candidates[index]
        if candidate.status is not Status.FINISHED or candidate.reward is not None:
            return NOTHING
        if not math.isfinite(value):
            return self.on_failed(index)
        candidate.reward = value
        if components:
            candidate.components = components
        return self._advance(repair=False) if self.settled else NOTHING

    def on_failed(self, index: int) -> Decision:
        """A running candidate failed in the engine, or a finished one could not be scored."""
        candidate = self._candidates[index]
        if self.complete or candidate.reward is not None:
            return NOTHING
        if candidate.status not in (Status.RUNNING, Status.FINISHED):
            return NOTHING
        key = candidate.key
        candidate.status = Status.FAILED
        replace: tuple[tuple[int, int], ...] = ()
        if not self.settled:
            self._certificate.remove(index, key)
            replace = self._replace(candidate)
        decision = self._advance(replace=replace, verdicts=((index, "failed"),))
        return self._without_stillborn(decision)

    def _without_stillborn(self, decision: Decision) -> Decision:
        """A replacement that could not be kept even if it started now is not asked for: it never existed."""
        stillborn = {new for _, new in decision.replace} & set(decision.cancel)
        if not stillborn:
            return decision
        for index in stillborn:
            del self._candidates[index]
        return dataclasses.replace(
            decision,
            replace=tuple(pair for pair in decision.replace if pair[1] not in stillborn),
            cancel=tuple(index for index in decision.cancel if index not in stillborn),
            verdicts=tuple(verdict for verdict in decision.verdicts if verdict[0] not in stillborn),
        )

    @property
    def running(self) -> tuple[int, ...]:
        """Indices of the candidates that are not decided."""
        return tuple(sorted(c.index for c in self._candidates.values() if c.status is Status.RUNNING))

    @property
    def certain(self) -> tuple[int, ...]:
        """Running candidates that are certain to be kept, however they and the others end, in order of index.

        Where no more contenders are left than are wanted, everybody (replacements keep the number); otherwise the long
        picks, once the short end is settled. Exempt, as in DESIGN 2.1: what fails, what runs into the cap and has to
        give way, a group that falls below two candidates, and whatever is done about groups without a signal.
        """
        if self.complete:
            return ()
        if self.settled:
            return tuple(index for index in self.running if index in self.picks)
        contenders = self._contenders()
        if len(contenders) > sum(self.rule.sizes(self.group_size, self.keep_longest)):
            return ()
        return tuple(sorted(c.index for c in contenders if c.key is None))

    def abandon(self, reason: str) -> Decision:
        """End the group undecided: what runs is cancelled, what has finished rejected. Nothing if it is complete."""
        if self.complete:
            return NOTHING
        self.complete = self.settled = True
        cancel = self.running
        for index in cancel:
            candidate = self._candidates[index]
            candidate.status = Status.CANCELLED
            candidate.exceeds = candidate.tokens
        finished = sorted(c.index for c in self._candidates.values() if c.status is Status.FINISHED)
        verdicts: tuple[tuple[int, Verdict], ...] = tuple((index, "cancelled_tail") for index in cancel)
        verdicts += tuple((index, "rejected") for index in finished)
        return Decision(cancel=cancel, verdicts=verdicts, complete=True, rejected_reason=reason)

    def restore(
        self, index: int, status: Status, tokens: int = 0, *, capped: bool = False, reward: float | None = None
    ) -> None:
        """What is known of a candidate from the ledger. For groups that decide nothing any more."""
        if index not in self._candidates:
            self._add(index, replaceable=False)
        candidate = self._candidates[index]
        candidate.status, candidate.tokens = status, tokens
        candidate.capped, candidate.reward = capped, reward

    def restore_decision(self, kept: tuple[int, ...], *, zero_variance: bool, rescued: bool) -> None:
        """The group was complete; the ledger says what it kept."""
        self.complete = self.settled = True
        self.kept, self.zero_variance, self.rescued = kept, zero_variance, rescued

    def _add(self, index: int, *, replaceable: bool) -> None:
        draw = survivor_draw(self.run_seed, candidate_id(self.draw, index))
        self._candidates[index] = Candidate(index, draw, replaceable)
        self._certificate.add(index)

    def _replace(self, failed: Candidate) -> tuple[tuple[int, int], ...]:
        """A new candidate for a failed one, unless the group is certain to be full without it."""
        new_index = max(self._candidates) + 1
        if not failed.replaceable or new_index >= MAX_CANDIDATES:
            return ()
        if self._certificate.settled and len(self._contenders()) >= self.group_size:
            return ()
        self._add(new_index, replaceable=False)
        return ((failed.index, new_index),)

    def _contenders(self) -> list[Contender]:
        return [
            Contender(c.index, c.key, c.arrival, c.draw)
            for c in self._candidates.values()
            if c.status is Status.RUNNING or c.status is Status.FINISHED
        ]

    def _advance(
        self,
        replace: tuple[tuple[int, int], ...] = (),
        verdicts: tuple[tuple[int, Verdict], ...] = (),
        *,
        repair: bool = True,
    ) -> Decision:
        """Decide whatever has become certain. repair: a pick may have been lost since the last time."""
        if self.complete:
            return Decision(replace=replace, verdicts=verdicts) if verdicts else NOTHING
        cancel: tuple[int, ...] = ()
        if not self.settled:
            cancel = self._cancel_what_is_certain()
            verdicts += tuple((index, "cancelled_tail") for index in cancel)
        elif repair:
            self.picks = pick(self.rule, self.group_size, self.keep_longest, self._contenders(), self.picks)
        if self.settled and self._rewards_are_in():
            return self._seal(cancel, replace, verdicts)
        return Decision(cancel=cancel, replace=replace, verdicts=verdicts) if verdicts else NOTHING

    def _cancel_what_is_certain(self) -> tuple[int, ...]:
        """Settle the picks if that is possible now; cancel the running candidates that have no chance any more."""
        sizes = self.rule, self.group_size, self.keep_longest
        if self._certificate.settled:
            self.settled = True
            self.picks = pick(*sizes, self._contenders())
            running = (c for c in self._candidates.values() if c.status is Status.RUNNING)
            cancel = tuple(sorted(c.index for c in running if c.index not in self.picks))
        elif self._certificate.cleared:
            cancel = tuple(hopeless(*sizes, self._contenders(), self._certificate))
        else:
            return ()
        for index in cancel:
            candidate = self._candidates[index]
            candidate.status = Status.CANCELLED
            candidate.exceeds = self._certificate.exceeds(index)
            self._certificate.remove(index)
        return cancel

    def _rewards_are_in(self) -> bool:
        if any(self._candidates[i].reward is None for i in self.picks.indices):
            return False
        if self.wait_for_all_rewards and any(
            c.reward is None for c in self._candidates.values() if c.status is Status.FINISHED
        ):
            return False
        return self.zero_variance_rule != "rescue" or self._rescue() != PENDING

    def _rescue(self) -> tuple[int, int] | Literal["pending"] | None:
        """The swap that would give the picks a signal, if they have none."""
        picked = [self._candidates[i] for i in self.picks.indices]
        if not picked or has_signal([c.reward for c in picked]):
            return None
        spare = [c for c in self._candidates.values() if c.status is Status.FINISHED and c.index not in self.picks]
        return rescue([self._candidates[i] for i in self.picks.short], spare)

    def _seal(
        self,
        cancel: tuple[int, ...],
        replace: tuple[tuple[int, int], ...],
        verdicts: tuple[tuple[int, Verdict], ...],
    ) -> Decision:
        """Fix the verdict on everything that finished: the group is complete, or rejected."""
        self.complete = True
        chosen = self.picks.indices
        reason = ""
        if len(chosen) < min(MIN_TRAINED, self.group_size):
            reason = f"{len(chosen)} of {self.group_size} candidates left"
        else:
            self.zero_variance = not has_signal([self._candidates[i].reward for i in chosen])
        if self.zero_variance and self.zero_variance_rule == "drop":
            reason = ZERO_VARIANCE
        elif self.zero_variance and self.zero_variance_rule == "rescue" and isinstance(swap := self._rescue(), tuple):
            self.rescued = True
            chosen = tuple(sorted({*chosen, swap[1]} - {swap[0]}))
        self.kept = () if reason else chosen
        finished = sorted(c.index for c in self._candidates.values() if c.status is Status.FINISHED)
        verdicts += tuple((i, "kept" if i in self.kept else "rejected") for i in finished)
        return Decision(
            cancel=cancel,
            replace=replace,
            verdicts=verdicts,
            complete=True,
            kept=None if reason else self.kept,
            rejected_reason=reason,
        )
