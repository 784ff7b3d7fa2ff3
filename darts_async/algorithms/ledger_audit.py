"""The audit of a ledger: fed its records in order, says whether they can be the books of one run, and adds them up.

It knows nothing of how the records came about, nor of files; the rules are the ledger's own:

- every candidate of a plan, and every replacement, ends exactly once; a group is over when all of them have;
- a group has one plan and one outcome. Trained candidates are those of trained groups and ended before the outcome,
  stale ones those of stale groups, and only groups that were cut off have candidates in `cancelled_shutdown`;
- versions of steps increase by one, and a step names exactly the groups whose outcome was `trained` since the last;
- what the learner trained or refused was released to it, once, and the kept candidates are those it names;
- a draw has one open group at a time, and is planned again only after that was cut off or lost;
- a replacement follows a candidate of its own group that failed (or does so next), once each, under a new number;
- evaluations are not in it;
- closed in good order means nothing is open, and the totals written down are those of the records.

Memory: what is open (candidates in flight, groups of one step), never the length of the run. Group numbers increase in
the order of dispatch, so what is over need not be remembered to be told from what never was.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from darts_async.algorithms.ledger_records import (
    CandidateEnded,
    CandidateReplaced,
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    KnobsSet,
    LedgerRecord,
    RoleRestarted,
    RunClosed,
    RunOpened,
    RunReopened,
    StepTrained,
)
from darts_async.messages import LEDGER_STATES, LedgerState, group_of

__all__ = ["LedgerAudit"]

MAX_NAMED: Final = 20
"""Violations kept as text; the others are counted."""
MAX_REASONS: Final = 256
"""Distinct reasons of failures that are counted apart."""
_MAX_SETTINGS: Final = 100
"""Changes of settings kept; all are counted."""

_GROUP_OF_STATE: Final[dict[LedgerState, str]] = {
    "trained": "trained",
    "stale": "stale",
    "cancelled_shutdown": "cancelled",
}
"""States that only candidates of a group with this outcome have."""


class _Group:
    """A group of which something is still to come."""

    __slots__ = (
        "candidates",
        "dispatch_version",
        "doomed",
        "draw",
        "kept",
        "last",
        "outcome",
        "replaceable",
        "size",
        "states",
    )

    def __init__(self, plan: GroupPlanned) -> None:
        self.candidates = set(plan.candidate_ids)
        """Which have not ended."""
        self.last = max(plan.candidate_ids, default=0)
        self.replaceable = set(plan.candidate_ids)
        """Which may still be replaced: planned, not replaced, not ended but by a failure."""
        self.doomed: set[int] = set()
        """Open, and replaced: they must end as failed."""
        self.kept: set[int] | None = None
        """Of a released one."""
        self.states: Counter[LedgerState] = Counter()
        self.size = plan.group_size
        self.dispatch_version = plan.dispatch_version
        self.draw = plan.draw
        self.outcome = ""


class LedgerAudit:
    """Totals and violations of a ledger. `feed` every record in order, then `finish`."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        """The first of them, in words."""
        self.num_violations = 0
        self.num_records = 0
        self.run = ""
        self.rollouts: dict[str, int] = dict.fromkeys(LEDGER_STATES, 0)
        self.tokens: dict[str, int] = dict.fromkeys(LEDGER_STATES, 0)
        """Of candidates that have ended."""
        self.generated = 0
        """Candidates ever dispatched."""
        self.num_replaced = 0
        self.num_estimated = 0
        """Ended candidates whose token count is their last progress."""
        self.num_groups = 0
        self.outcomes: Counter[str] = Counter()
        """Groups by outcome."""
        self.failures: Counter[str] = Counter()
        """Failed candidates by reason."""
        self.num_steps = 0
        self.version = 0
        """Of the last step."""
        self.num_reopened = 0
        self.num_restarts = 0
        """Starts of roles that were lost."""
        self.num_evaluations = 0
        self.num_set = 0
        """Orders that changed settings."""
        self.settings: deque[KnobsSet] = deque(maxlen=_MAX_SETTINGS)
        """The last of them."""
        self.closed = False
        """The last record is `RunClosed`."""
        self._number = 0
        self._opened = False
        self._in_flight = 0
        self._last_group = -1
        self._groups: dict[int, _Group] = {}
        self._draws = _Draws()
        self._trained: dict[int, None] = {}
        """Groups that were trained since the last step, in order."""

    @property
    def in_flight(self) -> int:
        """Candidates that have not ended."""
        return self._in_flight

    @property
    def open_groups(self) -> int:
        """Groups without an outcome."""
        return sum(not group.outcome for group in self._groups.values())

    @property
    def tokens_ended(self) -> int:
        """Tokens of all candidates that have ended."""
        return sum(self.tokens.values())

    def feed(self, record: LedgerRecord, number: int | None = None) -> None:
        """Take the next record. number: what violations call it; counted from 0 if it is not given."""
        self._number = self.num_records if number is None else number
        if not self._opened and not isinstance(record, RunOpened):
            self._wrong("the ledger does not begin with the opening of a run")
            self._opened = True
        if self.closed and not isinstance(record, RunReopened):
            self._wrong("something follows the closing of the books")
        self.closed = False
        match record:
            case CandidateEnded():
                self._candidate_ended(record)
            case GroupPlanned():
                self._planned(record)
            case GroupEnded():
                self._group_ended(record)
            case CandidateReplaced():
                self._replaced(record)
            case GroupReleased():
                self._released(record)
            case StepTrained():
                self._step(record)
            case RunOpened():
                if self._opened:
                    self._wrong("the run is opened a second time")
                self._opened, self.run = True, record.run
            case RunClosed():
                self._close(record)
            case _:
                self._count(record)
        self.num_records += 1

    def finish(self, *, live: bool) -> None:
        """The ledger ends here. live: its writer is at work, so that what is open is in flight, not forgotten."""
        if live or self.closed or not self.num_records:
            return
        self._wrong(
            f"the books were not closed: {self._in_flight} candidates have no end, {self.open_groups} groups no outcome"
        )

    def _count(self, record: LedgerRecord) -> None:
        """What is noted, and has no place in the balance."""
        match record:
            case RunReopened():
                self.num_reopened += 1
            case RoleRestarted():
                self.num_restarts += 1
            case EvaluationScored():
                self.num_evaluations += 1
            case KnobsSet():
                self.num_set += 1
                self.settings.append(record)
            case _:
                pass

    # --- one record each --------------------------------------------------------------------------------------------

    def _planned(self, record: GroupPlanned) -> None:
        name = f"group {record.group_id}"
        if record.group_id <= self._last_group:
            self._wrong(f"{name} was planned twice or out of order: group {self._last_group} came before")
            return
        self._last_group = record.group_id
        group = self._groups[record.group_id] = _Group(record)
        self.num_groups += 1
        self.generated += len(group.candidates)
        self._in_flight += len(group.candidates)
        if len(group.candidates) != len(record.candidate_ids) or not group.candidates:
            self._wrong(f"{name} lists a candidate twice, or none at all")
        if any(group_of(candidate) != record.group_id for candidate in group.candidates):
            self._wrong(f"{name} was planned with another group's candidates")
        if (fault := self._draws.planned(record.draw)) and record.purpose == "train":
            self._wrong(f"{name} was planned for draw {record.draw}, {fault}")
        if record.purpose != "train":
            self._wrong(f"{name} is of an evaluation, which has no place in the ledger")

    def _replaced(self, record: CandidateReplaced) -> None:
        new, failed = record.candidate_id, record.failed_id
        name = f"candidate {new}, in the place of {failed}"
        group = self._groups.get(group_of(new))
        if group is None or group.outcome:
            self._wrong(f"{name}: its group was never planned, or is over")
            return
        if new <= group.last:
            self._wrong(f"{name}: the number was in use before")
            return
        if failed not in group.replaceable:
            # It was never planned in this group, ended otherwise, is a replacement itself, or was replaced already.
            self._wrong(f"{name}: {failed} cannot be replaced")
        group.replaceable.discard(failed)
        if failed in group.candidates:
            group.doomed.add(failed)
        group.last = new
        group.candidates.add(new)
        self.generated += 1
        self.num_replaced += 1
        self._in_flight += 1

    def _candidate_ended(self, record: CandidateEnded) -> None:
        candidate, state = record.candidate_id, record.state
        group_id = group_of(candidate)
        group = self._groups.get(group_id)
        if group is None or candidate not in group.candidates:
            known = group_id <= self._last_group if group is None else candidate <= group.last
            self._wrong(f"candidate {candidate} ended as {state}, but {'twice' if known else 'was never dispatched'}")
            return
        group.candidates.discard(candidate)
        if state in ("trained", "stale") and candidate not in (group.kept or ()):
            self._wrong(f"candidate {candidate} ended as {state}, but was never released to the learner")
        self._in_flight -= 1
        self.rollouts[state] += 1
        self.tokens[state] += record.tokens
        self.num_estimated += record.estimated
        group.states[state] += 1
        if state == "failed":
            reason = record.reason or "not said"
            self.failures[reason if reason in self.failures or len(self.failures) < MAX_REASONS else "other"] += 1
        else:
            group.replaceable.discard(candidate)
            if candidate in group.doomed:
                self._wrong(f"candidate {candidate} was replaced as failed, but ended as {state}")
        if group.outcome:
            # The learner's word is final: its groups' own candidates have ended before the outcome is written.
            if state in ("trained", "stale") or _GROUP_OF_STATE.get(state, group.outcome) != group.outcome:
                self._wrong(f"candidate {candidate} ended as {state} after its group's outcome was {group.outcome}")
            self._forget_if_over(group_id, group)

    def _released(self, record: GroupReleased) -> None:
        name = f"group {record.group_id}"
        group = self._groups.get(record.group_id)
        if group is None or group.outcome or group.kept is not None:
            known = record.group_id <= self._last_group
            self._wrong(f"{name} was released, but {'twice, or after its end' if known else 'was never planned'}")
            return
        group.kept = {kept.candidate_id for kept in record.kept}
        if unknown := sorted(group.kept - group.candidates):
            self._wrong(f"{name} was released with candidates that it does not have open: {_first(unknown)}")

    def _group_ended(self, record: GroupEnded) -> None:
        name = f"group {record.group_id}"
        group = self._groups.get(record.group_id)
        if group is None or group.outcome:
            known = record.group_id <= self._last_group
            self._wrong(f"{name} ended as {record.outcome}, but {'twice' if known else 'was never planned'}")
            return
        group.outcome = record.outcome
        self._draws.ended(group.draw, again=record.starts_again)
        self.outcomes[record.outcome] += 1
        for state, outcome in _GROUP_OF_STATE.items():
            if group.states[state] and outcome != record.outcome:
                self._wrong(f"{name} ended as {record.outcome} with {group.states[state]} candidates {state}")
        kept = group.states["trained"] + group.states["stale"]
        if record.outcome in ("trained", "stale") and not min(2, group.size) <= kept <= group.size:
            self._wrong(f"{name} of size {group.size} ended as {record.outcome} with {kept} such candidates")
        elif record.outcome in ("trained", "stale") and kept != len(group.kept or ()):
            self._wrong(f"{name} ended as {record.outcome} with {kept} of {len(group.kept or ())} that were released")
        if (record.outcome == "trained") != (record.version is not None):
            self._wrong(f"{name} ended as {record.outcome} with version {record.version}")
        elif record.version is not None:
            self._trained[record.group_id] = None
            if record.version != self.version + 1:
                self._wrong(f"{name} was trained to version {record.version} after version {self.version}")
            if record.version <= group.dispatch_version:
                self._wrong(f"{name} was dispatched at version {group.dispatch_version}, trained to {record.version}")
        self._forget_if_over(record.group_id, group)

    def _step(self, record: StepTrained) -> None:
        name = f"the step to version {record.version}"
        if record.version != self.version + 1:
            self._wrong(f"{name} follows version {self.version}")
        self.num_steps += 1
        self.version = max(record.version, self.version)
        named = set(record.group_ids)
        if len(named) != len(record.group_ids):
            self._wrong(f"{name} names a group twice")
        if unknown := sorted(named - self._trained.keys()):
            self._wrong(f"{name} names groups that were not trained in it: {_first(unknown)}")
        if missing := sorted(self._trained.keys() - named):
            self._wrong(f"{name} does not name groups that were trained since the last: {_first(missing)}")
        self._trained.clear()

    def _close(self, record: RunClosed) -> None:
        self.closed = True
        if self._in_flight:
            some = sorted(c for group in self._groups.values() for c in group.candidates)
            self._wrong(f"the books were closed with {self._in_flight} candidates that have no end: {_first(some)}")
        if self.open_groups:
            some = sorted(number for number, group in self._groups.items() if not group.outcome)
            self._wrong(f"the books were closed with {self.open_groups} groups that have no outcome: {_first(some)}")
        if self._trained:
            self._wrong(f"the books were closed with trained groups that no step names: {_first(list(self._trained))}")
        for what, written, counted in (
            ("rollouts", record.rollouts, {"generated": self.generated, **self.rollouts}),
            ("tokens", record.tokens, {"generated": self.tokens_ended, **self.tokens}),
        ):
            if written != counted:
                differ = sorted(s for s in {*written, *counted} if written.get(s) != counted.get(s))
                shown = ", ".join(f"{s} {written.get(s)} written, {counted.get(s)} counted" for s in differ)
                self._wrong(f"the totals of {what} are not those of the records: {shown}")
        if record.estimated != self.num_estimated:
            self._wrong(f"{record.estimated} estimated token counts written, {self.num_estimated} counted")

    # --- inside -----------------------------------------------------------------------------------------------------

    def _forget_if_over(self, group_id: int, group: _Group) -> None:
        if group.outcome and not group.candidates:
            del self._groups[group_id]

    def _wrong(self, text: str) -> None:
        self.num_violations += 1
        if len(self.violations) < MAX_NAMED:
            self.violations.append(f"record {self._number}: {text}")


class _Draws:
    """Which draws may be planned. Memory: the draws that are out of order, not all there were."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._over: set[int] = set()
        self._all_over_below = 0

    def planned(self, draw: int) -> str:
        """A group of it is planned. Return what is wrong with that, or an empty string."""
        if draw in self._open:
            return "which another group has"
        self._open.add(draw)
        if draw < self._all_over_below or draw in self._over:
            return "which is over"
        return ""

    def ended(self, draw: int, *, again: bool) -> None:
        """Its group is over; `again`: it is to be planned once more."""
        self._open.discard(draw)
        if not again:
            self._over.add(draw)
            while self._all_over_below in self._over:
                self._over.remove(self._all_over_below)
                self._all_over_below += 1


def _first(numbers: list[int], count: int = 5) -> str:
    more = f" and {len(numbers) - count} more" if len(numbers) > count else ""
    return ", ".join(map(str, numbers[:count])) + more
