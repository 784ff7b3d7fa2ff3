"""The audit: silent about the books of any legal run, and never about books with one thing wrong in them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.algorithms.ledger_records import (
    CandidateEnded,
    CandidateReplaced,
    GroupEnded,
    GroupPlanned,
    GroupReleased,
    KeptCandidate,
    LedgerRecord,
    RunClosed,
    RunOpened,
    RunReopened,
    StepTrained,
)
from darts_async.messages import LEDGER_STATES, candidate_id

OPENED = RunOpened(run="r", seed=0, rule="survivor")


def plan(
    group_id: int, num: int = 3, size: int = 2, version: int = 0, draw: int | None = None, **more: Any
) -> GroupPlanned:
    return GroupPlanned(
        group_id=group_id,
        draw=group_id if draw is None else draw,
        prompt_id=f"p{group_id}",
        rule="survivor",
        group_size=size,
        keep_longest=1,
        candidate_ids=tuple(candidate_id(group_id, index) for index in range(num)),
        dispatch_version=version,
        **more,
    )


def end(group_id: int, index: int, state: Any, tokens: int = 10, **more: Any) -> CandidateEnded:
    return CandidateEnded(candidate_id=candidate_id(group_id, index), state=state, tokens=tokens, **more)


def release(group_id: int, *indices: int) -> GroupReleased:
    kept = tuple(KeptCandidate(candidate_id(group_id, index), 10, 1.0) for index in indices)
    return GroupReleased(group_id=group_id, step=0, kept=kept, lengths=())


def trained(group_id: int, version: int) -> list[LedgerRecord]:
    """A group of three that trains on two."""
    return [
        plan(group_id),
        release(group_id, 0, 1),
        end(group_id, 0, "trained"),
        end(group_id, 1, "trained"),
        end(group_id, 2, "rejected"),
        GroupEnded(group_id=group_id, outcome="trained", version=version),
    ]


def totals(records: list[LedgerRecord]) -> RunClosed:
    """Written independently of the audit: from the candidates' ends alone."""
    ends = [record for record in records if isinstance(record, CandidateEnded)]
    rollouts, tokens = Counter[str](), Counter[str]()
    for record in ends:
        rollouts[record.state] += 1
        tokens[record.state] += record.tokens
    return RunClosed(
        rollouts={"generated": len(ends), **{state: rollouts[state] for state in LEDGER_STATES}},
        tokens={"generated": sum(tokens.values()), **{state: tokens[state] for state in LEDGER_STATES}},
        estimated=sum(record.estimated for record in ends),
    )


def audit(records: list[LedgerRecord], *, live: bool = False) -> LedgerAudit:
    books = LedgerAudit()
    for record in records:
        books.feed(record)
    books.finish(live=live)
    return books


def violations(*records: LedgerRecord, live: bool = True) -> list[str]:
    return audit([OPENED, *records], live=live).violations


# --- by hand --------------------------------------------------------------------------------------------------------


def test_the_totals_of_a_small_run() -> None:
    records = [
        OPENED,
        *trained(0, 1),
        plan(3, num=2),
        CandidateReplaced(failed_id=candidate_id(3, 1), candidate_id=candidate_id(3, 2)),
        end(3, 1, "failed", 4, reason="engine"),
        StepTrained(version=1, group_ids=(0,)),
        end(3, 0, "cancelled_tail", 7, estimated=True),
    ]
    books = audit(records, live=True)
    assert books.violations == []
    assert (books.generated, books.in_flight, books.open_groups, books.num_groups) == (6, 1, 1, 2)
    assert books.rollouts == {
        "trained": 2, "rejected": 1, "cancelled_tail": 1, "stale": 0, "failed": 1, "cancelled_shutdown": 0,
    }  # fmt: skip
    assert books.tokens["trained"] == 20 and books.tokens_ended == 41
    assert (books.num_steps, books.version, books.num_replaced, books.num_estimated) == (1, 1, 1, 1)
    assert books.failures == {"engine": 1} and books.outcomes == {"trained": 1}
    assert not books.closed
    assert audit(records).violations == [
        "record 11: the books were not closed: 1 candidates have no end, 1 groups no outcome"
    ]
    records += [GroupEnded(group_id=3, outcome="cancelled"), end(3, 2, "cancelled_shutdown")]
    books = audit([*records, totals(records)])
    assert books.violations == [] and books.closed


def test_a_live_run_may_stop_anywhere() -> None:
    records = [OPENED, *trained(0, 1), StepTrained(version=1, group_ids=(0,))]
    records.append(totals(records))
    for count in range(len(records) + 1):
        assert audit(records[:count], live=True).violations == []


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([plan(0, purpose="eval")], "group 0 is of an evaluation, which has no place in the ledger"),
        ([plan(4), plan(4)], "group 4 was planned twice or out of order: group 4 came before"),
        ([plan(4), plan(3)], "group 3 was planned twice or out of order: group 4 came before"),
        ([plan(4, num=0)], "group 4 lists a candidate twice, or none at all"),
        (
            [msgspec.structs.replace(plan(4), candidate_ids=(4096, 9000))],
            "group 4 was planned with another group's candidates",
        ),
        ([end(0, 0, "trained")], "candidate 0 ended as trained, but was never dispatched"),
        ([plan(0), end(0, 5, "trained")], "candidate 5 ended as trained, but was never dispatched"),
        ([plan(0), end(0, 2, "failed"), end(0, 2, "stale")], "candidate 2 ended as stale, but twice"),
        ([*trained(0, 1), end(0, 1, "trained")], "candidate 1 ended as trained, but twice"),
        ([GroupEnded(group_id=0, outcome="stale")], "group 0 ended as stale, but was never planned"),
        ([*trained(0, 1), GroupEnded(group_id=0, outcome="stale")], "group 0 ended as stale, but twice"),
        (
            [plan(0), end(0, 0, "trained"), GroupEnded(group_id=0, outcome="rejected")],
            "group 0 ended as rejected with 1 candidates trained",
        ),
        (
            [plan(0), end(0, 0, "stale"), end(0, 1, "trained"), GroupEnded(group_id=0, outcome="trained", version=1)],
            "group 0 ended as trained with 1 candidates stale",
        ),
        (
            [plan(0), GroupEnded(group_id=0, outcome="rejected"), end(0, 0, "trained")],
            "candidate 0 ended as trained after its group's outcome was rejected",
        ),
        (
            [plan(0), GroupEnded(group_id=0, outcome="rejected"), end(0, 0, "cancelled_shutdown")],
            "candidate 0 ended as cancelled_shutdown after its group's outcome was rejected",
        ),
        (
            [plan(0), end(0, 0, "trained"), GroupEnded(group_id=0, outcome="trained", version=1)],
            "group 0 of size 2 ended as trained with 1 such candidates",
        ),
        (
            [plan(0), *(end(0, i, "stale") for i in range(3)), GroupEnded(group_id=0, outcome="stale")],
            "group 0 of size 2 ended as stale with 3 such candidates",
        ),
        ([plan(0), end(0, 0, "trained")], "candidate 0 ended as trained, but was never released to the learner"),
        ([release(0, 0, 1)], "group 0 was released, but was never planned"),
        ([plan(0), release(0, 0, 1), release(0, 0, 1)], "group 0 was released, but twice, or after its end"),
        ([plan(0), release(0, 0, 7)], "group 0 was released with candidates that it does not have open: 7"),
        (
            [plan(0), release(0, 0, 1, 2), *trained(0, 1)[2:]],
            "group 0 ended as trained with 2 of 3 that were released",
        ),
        ([plan(0, draw=5), plan(1, draw=5)], "group 1 was planned for draw 5, which another group has"),
        ([*trained(0, 1), plan(1, draw=0)], "group 1 was planned for draw 0, which is over"),
        (
            [plan(3), GroupEnded(group_id=3, outcome="rejected"), plan(4, draw=3)],
            "group 4 was planned for draw 3, which is over",
        ),
        ([plan(0), GroupEnded(group_id=0, outcome="rejected", version=1)], "group 0 ended as rejected with version 1"),
        (
            [*trained(0, 1)[:-1], GroupEnded(group_id=0, outcome="trained")],
            "group 0 ended as trained with version None",
        ),
        (trained(0, 2), "group 0 was trained to version 2 after version 0"),
        (
            [plan(0, num=2, version=1), *trained(0, 1)[1:4], trained(0, 1)[5]],
            "group 0 was dispatched at version 1, trained to 1",
        ),
        ([StepTrained(version=2, group_ids=())], "the step to version 2 follows version 0"),
        (
            [StepTrained(version=1, group_ids=()), StepTrained(version=1, group_ids=())],
            "the step to version 1 follows version 1",
        ),
        (
            [*trained(0, 1), StepTrained(version=1, group_ids=(0, 7))],
            "the step to version 1 names groups that were not trained in it: 7",
        ),
        (
            [*trained(0, 1), *trained(1, 1), StepTrained(version=1, group_ids=(1,))],
            "the step to version 1 does not name groups that were trained since the last: 0",
        ),
        ([*trained(0, 1), StepTrained(version=1, group_ids=(0, 0))], "the step to version 1 names a group twice"),
        (
            [CandidateReplaced(failed_id=0, candidate_id=3)],
            "candidate 3, in the place of 0: its group was never planned, or is over",
        ),
        (
            [plan(0), GroupEnded(group_id=0, outcome="rejected"), CandidateReplaced(failed_id=0, candidate_id=3)],
            "candidate 3, in the place of 0: its group was never planned, or is over",
        ),
        (
            [plan(0), CandidateReplaced(failed_id=0, candidate_id=2)],
            "candidate 2, in the place of 0: the number was in use before",
        ),
        (
            [plan(0), end(0, 0, "rejected"), CandidateReplaced(failed_id=0, candidate_id=3)],
            "candidate 3, in the place of 0: 0 cannot be replaced",
        ),
        (
            [plan(0), end(0, 0, "failed"), *(CandidateReplaced(failed_id=0, candidate_id=c) for c in (3, 4))],
            "candidate 4, in the place of 0: 0 cannot be replaced",
        ),
        (
            [plan(0), CandidateReplaced(failed_id=0, candidate_id=3), CandidateReplaced(failed_id=3, candidate_id=4)],
            "candidate 4, in the place of 3: 3 cannot be replaced",
        ),
        (
            [plan(0), CandidateReplaced(failed_id=0, candidate_id=3), end(0, 0, "rejected")],
            "candidate 0 was replaced as failed, but ended as rejected",
        ),
        ([OPENED], "the run is opened a second time"),
        ([totals([]), plan(0)], "something follows the closing of the books"),
        (
            [plan(0), end(0, 1, "rejected"), totals([end(0, 1, "rejected")])],
            "the books were closed with 2 candidates that have no end: 0, 2",
        ),
        ([*trained(0, 1), totals(trained(0, 1))], "the books were closed with trained groups that no step names: 0"),
    ],
)
def test_what_is_wrong_is_named(records: list[LedgerRecord], told: str) -> None:
    found = violations(*records)
    assert any(text.endswith(told) for text in found), found
    assert found[0].startswith("record ")


def test_a_ledger_begins_with_its_opening() -> None:
    assert audit([plan(0)], live=True).violations == ["record 0: the ledger does not begin with the opening of a run"]
    assert audit([]).violations == []


def test_totals_that_are_not_those_of_the_records_are_told() -> None:
    records = [OPENED, *trained(0, 1), StepTrained(version=1, group_ids=(0,))]
    close = totals(records)
    wrong = msgspec.structs.replace(close, tokens={**close.tokens, "stale": 5}, estimated=2)
    assert audit([*records, wrong]).violations == [
        "record 8: the totals of tokens are not those of the records: stale 5 written, 0 counted",
        "record 8: 2 estimated token counts written, 0 counted",
    ]


def test_only_the_first_violations_are_kept_and_all_are_counted() -> None:
    books = audit([OPENED, *(end(0, index, "failed") for index in range(1000))], live=True)
    assert (books.num_violations, len(books.violations)) == (1000, 20)


def test_what_is_over_is_forgotten() -> None:
    books = LedgerAudit()
    books.feed(OPENED)
    for group_id in range(1000):
        for record in [*trained(group_id, group_id + 1), StepTrained(version=group_id + 1, group_ids=(group_id,))]:
            books.feed(record)
    assert (len(books._groups), len(books._trained), books.num_violations) == (0, 0, 0)
    assert (len(books._draws._open), len(books._draws._over)) == (0, 0)


@pytest.mark.parametrize(
    ("outcome", "reason"), [("cancelled", ""), ("cancelled", "deferred"), ("stale", "selector_lost")]
)
def test_what_was_cut_off_or_lost_starts_again(outcome: Any, reason: str) -> None:
    cut = [plan(0), release(0, 0, 1)]
    cut += [end(0, index, "stale" if outcome == "stale" else "rejected") for index in range(2)]
    assert violations(*cut, GroupEnded(group_id=0, outcome=outcome, reason=reason), plan(1, draw=0)) == []


# --- any legal run --------------------------------------------------------------------------------------------------


class Clerk:
    """Keeps the books of a random legal run, by the rules of the ledger alone."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.records: list[LedgerRecord] = [OPENED]
        self.version = 0
        self.next_group = 0
        self.running: dict[int, list[int]] = {}
        """Groups without an outcome, and their open candidates."""
        self.draw_of: dict[int, int] = {}
        self.next_draw = 0
        self.redo: list[int] = []
        """Draws whose groups were cut off."""
        self.late: list[tuple[int, int]] = []
        """Cancelled candidates of groups that are over, whose reports are on their way."""

    def run(self, events: int) -> list[LedgerRecord]:
        for _ in range(events):
            self.random.choice((self.plan, self.plan, self.step, self.report, self.refuse, self.reopen))()
        self.close()
        return self.records

    def tokens(self) -> dict[str, Any]:
        return {"tokens": self.random.randint(1, 99), "estimated": self.random.random() < 0.1}

    def plan(self) -> None:
        self.next_group += self.random.choice((1, 1, 1, 3))  # evaluations take numbers too
        group, num = self.next_group, self.random.randint(2, 6)
        version = self.random.randint(max(0, self.version - 1), self.version)
        if not self.redo:
            self.redo, self.next_draw = [self.next_draw], self.next_draw + 1
        self.draw_of[group] = self.redo.pop(0)
        self.records.append(plan(group, num, version=version, draw=self.draw_of[group]))
        indices = list(range(num))
        for index in range(num):
            if self.random.random() < 0.2:
                replace = [
                    CandidateReplaced(failed_id=candidate_id(group, index), candidate_id=candidate_id(group, num))
                ]
                failed = [end(group, index, "failed", **self.tokens(), reason=self.random.choice(("engine", "")))]
                self.records += self.random.choice((failed, failed + replace, replace + failed))
                indices.remove(index)
                if self.records[-2:] in (failed + replace, replace + failed):
                    indices.append(num)
                    num += 1
        self.running[group] = indices

    def decide(self, group: int, state: str, outcome: Any, version: int | None = None) -> None:
        """Two are kept, the others rejected or cancelled; some of those report later."""
        kept, others = self.running[group][:2], self.running.pop(group)[2:]
        if outcome in ("trained", "stale"):
            self.records.append(release(group, *kept))
        elif outcome == "cancelled":
            self.redo.append(self.draw_of[group])
        for index in kept:
            self.records.append(end(group, index, state, **self.tokens()))
        for index in others:
            if self.random.random() < 0.5:
                self.late.append((group, index))
            else:
                self.records.append(end(group, index, "rejected", **self.tokens()))
        self.records.append(GroupEnded(group_id=group, outcome=outcome, version=version))

    def complete(self) -> list[int]:
        ready = [group for group, indices in self.running.items() if len(indices) >= 2]
        self.random.shuffle(ready)
        return ready[: self.random.randint(1, 3)]

    def step(self) -> None:
        groups = self.complete()
        if not groups:
            return
        self.version += 1
        for group in groups:
            self.decide(group, "trained", "trained", self.version)
        self.records.append(StepTrained(version=self.version, group_ids=tuple(groups)))

    def refuse(self) -> None:
        for group in self.complete()[:1]:
            self.decide(
                group, *self.random.choice((("stale", "stale"), ("rejected", "rejected"), ("rejected", "cancelled")))
            )

    def report(self) -> None:
        if self.late:
            group, index = self.late.pop(self.random.randrange(len(self.late)))
            self.records.append(end(group, index, "cancelled_tail", **self.tokens()))

    def reopen(self) -> None:
        if self.random.random() < 0.2:
            self.records.append(RunReopened(cut_bytes=self.random.randint(0, 9)))

    def close(self) -> None:
        while self.late:
            self.report()
        self.records += [GroupEnded(group_id=group, outcome="cancelled") for group in self.running]
        for group, indices in self.running.items():
            self.records += [end(group, index, "cancelled_shutdown", **self.tokens()) for index in indices]
        self.records.append(totals(self.records))


ledgers = st.builds(lambda seed, events: Clerk(seed).run(events), st.integers(0, 2**32), st.integers(1, 40))


@given(ledgers, st.floats(0, 1, exclude_max=True))
def test_a_legal_ledger_passes_whole_and_while_it_is_written(records: list[LedgerRecord], part: float) -> None:
    books = audit(records)
    assert books.violations == []
    close = records[-1]
    assert isinstance(close, RunClosed)
    assert {"generated": books.generated, **books.rollouts} == close.rollouts
    assert {"generated": books.tokens_ended, **books.tokens} == close.tokens
    assert (books.in_flight, books.open_groups, len(books._groups)) == (0, 0, 0)
    assert books.version == books.num_steps == sum(isinstance(record, StepTrained) for record in records)
    count = int(part * len(records))
    books = audit(records[:count], live=True)
    assert books.violations == []
    dispatched = sum(
        len(r.candidate_ids) if isinstance(r, GroupPlanned) else isinstance(r, CandidateReplaced)
        for r in records[:count]
    )
    ended = sum(isinstance(record, CandidateEnded) for record in records[:count])
    assert (books.generated, books.in_flight) == (dispatched, dispatched - ended)
    if count:
        assert any("the books were not closed" in text for text in audit(records[:count]).violations)


def changed(record: LedgerRecord, rng: random.Random) -> LedgerRecord:
    """The record with one thing in it that is not so."""
    replace = msgspec.structs.replace
    match record:
        case CandidateEnded():
            others = [state for state in LEDGER_STATES if state != record.state]
            return rng.choice(
                (
                    replace(record, state=rng.choice(others)),
                    replace(record, tokens=record.tokens + rng.randint(1, 9)),
                    replace(record, estimated=not record.estimated),
                    replace(record, candidate_id=record.candidate_id + rng.choice((7, 1 << 30))),
                )
            )
        case GroupPlanned():
            return rng.choice(
                (
                    replace(record, purpose="eval"),
                    replace(record, group_id=record.group_id + 1),
                    replace(record, candidate_ids=record.candidate_ids[:-1]),
                    replace(record, candidate_ids=(*record.candidate_ids, candidate_id(record.group_id, 900))),
                )
            )
        case GroupReleased():
            more = KeptCandidate(record.kept[0].candidate_id + 500, 1, 0.0)
            return replace(record, kept=rng.choice((record.kept[1:], (*record.kept, more), (*record.kept[:-1], more))))
        case CandidateReplaced():
            return rng.choice(
                (
                    replace(record, failed_id=record.failed_id + (1 << 20)),
                    replace(record, candidate_id=record.candidate_id + 1),
                )
            )
        case GroupEnded(outcome="trained"):
            wrong = replace(record, version=(record.version or 0) + rng.choice((-1, 1)))
            return rng.choice((replace(record, outcome="rejected", version=None), wrong))
        case GroupEnded(outcome="stale"):
            return replace(record, outcome="cancelled")
        case StepTrained():
            wrong = replace(record, version=record.version + rng.choice((-1, 1)))
            return rng.choice((wrong, replace(record, group_ids=record.group_ids[1:])))
        case RunClosed():
            key = rng.choice(sorted(record.tokens))
            return rng.choice(
                (
                    replace(record, tokens={**record.tokens, key: record.tokens[key] + 1}),
                    replace(record, rollouts={**record.rollouts, key: record.rollouts[key] + 1}),
                    replace(record, estimated=record.estimated + 1),
                )
            )
        case _:
            return record


@given(ledgers, st.floats(0, 1, exclude_max=True), st.sampled_from(["dropped", "doubled", "changed"]), st.randoms())
def test_one_thing_wrong_in_a_closed_ledger_is_found(
    records: list[LedgerRecord], part: float, how: str, rng: random.Random
) -> None:
    """Of `RunReopened` nothing can be wrong that the records show; the files' sequence numbers guard it too."""
    place = int(part * len(records))
    record = records[place]
    assume(not isinstance(record, RunReopened))
    if how == "dropped":
        wrong = records[:place] + records[place + 1 :]
    elif how == "doubled":
        wrong = records[: place + 1] + records[place:]
    else:
        other = changed(record, rng)
        assume(other != record)
        wrong = [*records[:place], other, *records[place + 1 :]]
    assert audit(wrong).violations, (how, record)


@given(ledgers, st.data())
def test_a_record_before_what_it_rests_on_is_found(records: list[LedgerRecord], data: st.DataObject) -> None:
    """Any record moved in front of the plan of its group, or a step in front of a group that it trained."""
    plans = {r.group_id: place for place, r in enumerate(records) if isinstance(r, GroupPlanned)}
    moves = []
    for place, record in enumerate(records):
        if isinstance(record, CandidateEnded | CandidateReplaced):
            moves.append((place, plans[record.candidate_id // 1024]))
        elif isinstance(record, GroupEnded):
            moves.append((place, plans[record.group_id]))
        elif isinstance(record, StepTrained):
            moves += [
                (place, at) for at, r in enumerate(records) if isinstance(r, GroupEnded) and r.version == record.version
            ]
    assume(moves)
    here, there = data.draw(st.sampled_from(moves))
    wrong = list(records)
    wrong.insert(there, wrong.pop(here))
    assert audit(wrong).violations
