"""Packing into micro-batches: one by hand, then the invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.packing import pack


def test_by_hand() -> None:
    packing = pack([3, 10, 4, 2, 9], budget=20)
    # width 10 takes two rows (10, 9); width 4 takes up to five rows (4, 3, 2)
    assert packing.batches == ((1, 4), (2, 0, 3))
    assert packing.num_tokens == 28
    assert packing.padded_tokens == 2 * 10 + 3 * 4
    assert packing.waste == pytest.approx(4 / 32)


def test_a_sequence_over_budget_goes_alone() -> None:
    assert pack([5, 50, 50], budget=16).batches == ((1,), (2,), (0,))


def test_equal_lengths_keep_their_order_and_waste_nothing() -> None:
    packing = pack([4] * 5, budget=8)
    assert packing.batches == ((0, 1), (2, 3), (4,))
    assert packing.waste == 0.0


def test_nothing_to_pack() -> None:
    assert pack([], budget=1).batches == ()
    assert pack([], budget=1).waste == 0.0


@pytest.mark.parametrize(("lengths", "budget"), [([0], 8), ([3, -1], 8), ([3], 0)])
def test_refuses_what_makes_no_sense(lengths: list[int], budget: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        pack(lengths, budget)


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 1000))
def test_every_sequence_once_within_budget(lengths: list[int], budget: int) -> None:
    packing = pack(lengths, budget)
    assert sorted(index for batch in packing.batches for index in batch) == list(range(len(lengths)))
    padded = 0
    for batch in packing.batches:
        cost = max(lengths[index] for index in batch) * len(batch)
        assert cost <= budget or len(batch) == 1
        padded += cost
    assert padded == packing.padded_tokens
    assert packing.num_tokens == sum(lengths)
    assert 0.0 <= packing.waste < 1.0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 500))
def test_all_but_the_last_micro_batch_are_full(lengths: list[int], budget: int) -> None:
    for batch in pack(lengths, budget).batches[:-1]:
        width = max(lengths[index] for index in batch)
        assert width * (len(batch) + 1) > budget
