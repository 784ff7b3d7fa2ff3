"""What a ledger tells about lengths, budgets and the fate of tokens: one pass, memory that does not grow with it.

Held at a time are the groups that are open, sums by slice of the run, and an even sample of the groups. Lengths are
filed under the policy version that a group was dispatched under, not under the step in which it ended: long responses
end late, and would else look like the doing of a later policy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from darts_async.algorithms.ledger_records import (
    CandidateEnded,
    CandidateReplaced,
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    KnobsSet,
    LedgerRecord,
    RoleRestarted,
    RunClosed,
    RunReopened,
    StepTrained,
)
from darts_async.messages import LEDGER_STATES, LedgerState, group_of
from darts_async.report.histogram import Histogram
from darts_async.report.slices import Slices

__all__ = ["BudgetPoint", "LedgerReading", "LedgerStory", "LengthProfile", "SampledGroup", "read_story"]

MAX_SLICES: Final = 128
MAX_SAMPLED: Final = 1500
MAX_EVENTS: Final = 200
MAX_EVALUATIONS: Final = 1000
MAX_REASONS: Final = 64
END_SHARE: Final = 0.2
"""Of the versions: what counts as the beginning and as the end of a run."""
_KEPT: Final = ("trained", "stale")


class SampledGroup(NamedTuple):
    """A group as the scatter of budgets shows it."""

    version: int
    candidates: int
    """Planned for it."""
    mean: float
    """Of its observed lengths; a cancelled candidate counts with the length it has for certain."""
    spread: float
    """Their standard deviation, in tokens."""


@dataclass(slots=True)
class LengthProfile:
    """Lengths of the candidates and groups dispatched in a stretch of the run."""

    generated: Histogram = field(default_factory=Histogram)
    """Every candidate that finished: kept or not."""
    kept: Histogram = field(default_factory=Histogram)
    """Those that were trained on."""
    cancelled: Histogram = field(default_factory=Histogram)
    """Tokens at which the others were cut off."""
    group_mean: Histogram = field(default_factory=Histogram)
    """Mean length of each group: how prompts differ."""
    group_spread: Histogram = field(default_factory=Histogram)
    """Standard deviation within each group, in whole tokens: how answers to one prompt differ."""
    num_capped: int = 0
    budgets: Counter[int] = field(default_factory=Counter)
    """Groups by the number of candidates they were planned with."""

    def merge(self, other: LengthProfile) -> None:
        """Take in a later stretch."""
        for mine, theirs in (
            (self.generated, other.generated),
            (self.kept, other.kept),
            (self.cancelled, other.cancelled),
            (self.group_mean, other.group_mean),
            (self.group_spread, other.group_spread),
        ):
            mine.merge(theirs)
        self.num_capped += other.num_capped
        self.budgets.update(other.budgets)


class BudgetPoint(NamedTuple):
    """How many candidates the groups of a stretch of versions were planned with."""

    version: float
    """Middle of the stretch."""
    low: int
    """The 10th percentile."""
    mean: float
    high: int
    """The 90th."""
    spread: float
    """Mean over the groups of the standard deviation of their lengths; NaN when none has ended."""


@dataclass(slots=True)
class LedgerStory:
    """One ledger, summed up."""

    rollouts: dict[LedgerState, int] = field(default_factory=lambda: dict.fromkeys(LEDGER_STATES, 0))
    tokens: dict[LedgerState, int] = field(default_factory=lambda: dict.fromkeys(LEDGER_STATES, 0))
    """Of candidates that have ended."""
    num_candidates: int = 0
    num_groups: int = 0
    num_records: int = 0
    version: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    first: LengthProfile = field(default_factory=LengthProfile)
    last: LengthProfile = field(default_factory=LengthProfile)
    ends_apart: bool = False
    """The run is long enough for `first` and `last` to be different stretches."""
    first_until: int = 0
    last_from: int = 0
    """Versions that bound them."""
    num_capped: int = 0
    budgets: list[BudgetPoint] = field(default_factory=list)
    groups: list[SampledGroup] = field(default_factory=list)
    groups_per_sample: int = 1
    evaluations: list[EvaluationScored] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    """What happened, with the version at which it did."""
    num_events: int = 0
    closed: bool = False
    damage: str = ""
    """Where reading had to stop."""

    @property
    def in_flight(self) -> int:
        """Candidates without an end."""
        return self.num_candidates - sum(self.rollouts.values())


@dataclass(slots=True)
class _OpenGroup:
    version: int
    num_planned: int
    open: int
    """Candidates without an end."""
    over: bool = False


class LedgerReading:
    """`feed` every record in order, then `finish`. Never raises for what a record says: `replay --check` judges."""

    def __init__(self) -> None:
        self._story = LedgerStory()
        self._open: dict[int, _OpenGroup] = {}
        self._profiles = Slices(LengthProfile, most=MAX_SLICES)
        self._num_seen = 0

    def feed(self, record: LedgerRecord) -> None:
        """Take the next record."""
        story = self._story
        story.num_records += 1
        story.closed = False
        match record:
            case CandidateEnded():
                self._candidate(record)
            case GroupPlanned():
                story.num_groups += 1
                story.num_candidates += len(record.candidate_ids)
                size = len(record.candidate_ids)
                self._open[record.group_id] = _OpenGroup(record.dispatch_version, size, size)
                self._profiles.at(record.dispatch_version).budgets[size] += 1
            case GroupEnded():
                self._group(record)
            case CandidateReplaced():
                story.num_candidates += 1
                if (group := self._open.get(group_of(record.candidate_id))) is not None:
                    group.open += 1
            case StepTrained():
                story.version = record.version
            case RunClosed():
                story.closed = True
            case _:
                self._event(record)

    def finish(self) -> LedgerStory:
        """Return the whole."""
        story = self._story
        slices = list(self._profiles)
        if slices:
            until = slices[-1][0] + self._profiles.width
            share = self._profiles.width * max(1, math.ceil(END_SHARE * until / self._profiles.width))
            story.first_until, story.last_from = round(share), round(until - share)
            story.ends_apart = share <= until - share
            for start, profile in slices:
                if start >= until - share:
                    story.last.merge(profile)
                elif start + self._profiles.width <= share:
                    story.first.merge(profile)
        middle = (self._profiles.width - 1) / 2
        story.budgets = [_budget_point(start + middle, profile) for start, profile in slices if profile.budgets]
        return story

    def _candidate(self, record: CandidateEnded) -> None:
        story, state = self._story, record.state
        story.rollouts[state] += 1
        story.tokens[state] += record.tokens
        if state == "failed":
            reason = record.reason or "not said"
            story.failures[reason if reason in story.failures or len(story.failures) < MAX_REASONS else "other"] += 1
        number = group_of(record.candidate_id)
        group = self._open.get(number)
        if group is None:
            return
        profile = self._profiles.at(group.version)
        if state == "cancelled_tail":
            profile.cancelled.add(record.tokens)
        elif state in _KEPT or state == "rejected":
            profile.generated.add(record.tokens)
            profile.num_capped += record.capped
            story.num_capped += record.capped
            if state in _KEPT:
                profile.kept.add(record.tokens)
        group.open -= 1
        self._forget_if_over(number, group)

    def _group(self, record: GroupEnded) -> None:
        group = self._open.get(record.group_id)
        if group is None:
            return
        lengths = [length.tokens for length in record.lengths]
        if len(lengths) > 1:
            mean = sum(lengths) / len(lengths)
            spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
            profile = self._profiles.at(group.version)
            profile.group_mean.add(round(mean))
            profile.group_spread.add(round(spread))
            self._sample(SampledGroup(group.version, group.num_planned, mean, spread))
        group.over = True
        self._forget_if_over(record.group_id, group)

    def _sample(self, group: SampledGroup) -> None:
        """Keep every k-th; k doubles when there are too many."""
        story = self._story
        if self._num_seen % story.groups_per_sample == 0:
            story.groups.append(group)
            if len(story.groups) > MAX_SAMPLED:
                story.groups = story.groups[::2]
                story.groups_per_sample *= 2
        self._num_seen += 1

    def _event(self, record: LedgerRecord) -> None:
        story = self._story
        match record:
            case EvaluationScored():
                if len(story.evaluations) < MAX_EVALUATIONS:
                    story.evaluations.append(record)
                return
            case RunReopened():
                text = "the run was taken up again"
            case RoleRestarted():
                text = f"{record.role}-{record.rank} was lost and started anew"
            case KnobsSet():
                changes = ", ".join(f"{key} {change.old} -> {change.new}" for key, change in record.changes.items())
                text = f"set while it ran: {changes}"
            case _:
                return
        story.num_events += 1
        if len(story.events) < MAX_EVENTS:
            story.events.append((story.version, text))

    def _forget_if_over(self, number: int, group: _OpenGroup) -> None:
        if group.over and group.open <= 0:
            del self._open[number]


def read_story(records: Iterable[LedgerRecord]) -> LedgerStory:
    """Read all of them. Raises what the iterable raises."""
    reading = LedgerReading()
    for record in records:
        reading.feed(record)
    return reading.finish()


def _budget_point(version: float, profile: LengthProfile) -> BudgetPoint:
    counts = profile.budgets
    total, seen = counts.total(), 0
    low = high = 0
    for size in sorted(counts):
        if seen < 0.1 * total:
            low = size
        if seen < 0.9 * total:
            high = size
        seen += counts[size]
    mean = sum(size * count for size, count in counts.items()) / total
    return BudgetPoint(version, low, mean, high, profile.group_spread.mean)
