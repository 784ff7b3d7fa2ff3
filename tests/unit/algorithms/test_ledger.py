"""The books: every candidate ends once, tokens balance."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.ledger import Ended, Ledger
from darts_async.messages import LEDGER_STATES, LedgerState


def test_a_candidate_ends_when_verdict_and_tokens_are_known_in_either_order() -> None:
    ledger = Ledger()
    ledger.dispatched((1, 2))
    assert ledger.decided(1, "cancelled_tail") is None
    assert ledger.reported(1, 40) == (True, Ended(1, "cancelled_tail", 40, estimated=False))
    assert ledger.reported(2, 7) == (True, None)
    assert ledger.in_flight == 1
    ledger.check()
    assert ledger.decided(2, "trained") == Ended(2, "trained", 7, estimated=False)
    assert ledger.rollouts == {**dict.fromkeys(LEDGER_STATES, 0), "cancelled_tail": 1, "trained": 1}
    assert (ledger.tokens["cancelled_tail"], ledger.tokens["trained"], ledger.tokens_generated) == (40, 7, 47)
    assert ledger.in_flight == 0
    ledger.check()


def test_repeats_change_nothing_and_contradictions_are_refused() -> None:
    ledger = Ledger()
    ledger.dispatched((1,))
    ledger.decided(1, "rejected")
    assert ledger.decided(1, "rejected") is None
    with pytest.raises(ValueError, match="was rejected and cannot become trained"):
        ledger.decided(1, "trained")
    with pytest.raises(ValueError, match="twice"):
        ledger.dispatched((1,))
    ledger.reported(1, 3)
    assert ledger.reported(1, 5) == (False, None)
    assert ledger.decided(1, "trained") is None
    assert ledger.reported(99, 5) == (False, None)
    assert ledger.tokens_generated == 3


def test_closing_uses_the_last_progress_only_where_no_report_came() -> None:
    ledger = Ledger()
    ledger.dispatched((1, 2, 3, 4))
    ledger.reported(1, 10)  # finished, undecided
    ledger.decided(2, "cancelled_tail")  # its report got lost
    ledger.reported(3, 5)
    ledger.decided(3, "failed")
    ends = ledger.close({1: 0, 2: 21, 4: 13}.__getitem__)
    assert ends == [
        Ended(1, "cancelled_shutdown", 10, estimated=False),
        Ended(2, "cancelled_tail", 21, estimated=True),
        Ended(4, "cancelled_shutdown", 13, estimated=True),
    ]
    assert (ledger.in_flight, ledger.num_estimated, ledger.tokens_generated) == (0, 2, 49)
    ledger.check()


def test_an_imbalance_is_found() -> None:
    ledger = Ledger()
    ledger.dispatched((1,))
    ledger.tokens["trained"] += 1
    with pytest.raises(ValueError, match="0 tokens, but 1 ended"):
        ledger.check()
    ledger.rollouts["stale"] += 1
    with pytest.raises(ValueError, match="1 candidates, but 1 ended and 1 in flight"):
        ledger.check()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.one_of(st.integers(0, 500), st.sampled_from(LEDGER_STATES))), max_size=60),
    st.integers(0, 60),
)
def test_any_history_ends_every_candidate_once_and_balances(
    history: list[tuple[int, int | LedgerState]], progress: int
) -> None:
    ledger = Ledger()
    ledger.dispatched(range(10))
    ends: list[Ended] = []
    verdicts: dict[int, LedgerState] = {}
    tokens: dict[int, int] = {}
    for candidate, fact in history:
        if isinstance(fact, int):
            _, end = ledger.reported(candidate, fact)
            tokens.setdefault(candidate, fact)
        else:
            state = verdicts.setdefault(candidate, fact)
            end = ledger.decided(candidate, state)
        ends += [end] if end is not None else []
        ledger.check()
    ends += ledger.close(lambda _: progress)
    assert Counter(end.candidate_id for end in ends) == Counter(range(10))
    for end in ends:
        assert end.state == verdicts.get(end.candidate_id, "cancelled_shutdown")
        assert end.tokens == tokens.get(end.candidate_id, progress)
        assert end.estimated == (end.candidate_id not in tokens)
    assert ledger.in_flight == 0 and sum(ledger.rollouts.values()) == 10
    ledger.check()
