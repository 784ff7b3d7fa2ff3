"""Packing into micro-batches: one by hand, then the invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.packing import join, pack


def test_by_hand() -> None:
    packing = pack([3, 10, 4, 2, 9], budget=20, overhead_tokens=3)
    # (10, 9) and (4, 3, 2): 20 + 12 + 2 * 3. One batch more would save 1 or 2 tokens of padding and cost 3.
    assert packing.batches == ((1, 4), (2, 0, 3))
    assert packing.num_tokens == 28
    assert packing.padded_tokens == 2 * 10 + 3 * 4
    assert packing.waste == pytest.approx(4 / 32)


def test_a_long_sequence_does_not_widen_the_short_ones() -> None:
    lengths = [500, *[20] * 10]
    assert pack(lengths, budget=8192, overhead_tokens=100).padded_tokens == 500 + 10 * 20
    assert len(pack(lengths, budget=8192, overhead_tokens=5000).batches) == 1


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


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 1000), st.integers(0, 200))
def test_every_sequence_once_within_budget(lengths: list[int], budget: int, overhead: int) -> None:
    packing = pack(lengths, budget, overhead)
    assert sorted(index for batch in packing.batches for index in batch) == list(range(len(lengths)))
    padded = 0
    for batch in packing.batches:
        cost = max(lengths[index] for index in batch) * len(batch)
        assert cost <= budget or len(batch) == 1
        padded += cost
    assert padded == packing.padded_tokens
    assert packing.num_tokens == sum(lengths)
    assert 0.0 <= packing.waste < 1.0


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 80), st.integers(0, 20))
def test_no_packing_is_cheaper(lengths: list[int], budget: int, overhead: int) -> None:
    """Against every way to split the sequences into sets, neighbours in length or not."""

    def cheapest(rest: tuple[int, ...]) -> int:
        if not rest:
            return 0
        width, others = rest[0], rest[1:]  # the longest; choose who joins it
        costs = []
        for chosen in range(1 << len(others)):
            rows = 1 + chosen.bit_count()
            if rows == 1 or rows * width <= budget:
                left = tuple(other for index, other in enumerate(others) if not chosen >> index & 1)
                costs.append(rows * width + overhead + cheapest(left))
        return min(costs)

    packing = pack(lengths, budget, overhead)
    got = packing.padded_tokens + overhead * len(packing.batches)
    assert got == cheapest(tuple(sorted(lengths, reverse=True)))


def test_join_by_hand() -> None:
    packing = join([3, 10, 4, 2, 9, 30], budget=16)
    # Longest first: 30 over budget and alone, 10 + 4 + 2, 9 + 3.
    assert packing.batches == ((5,), (1, 2, 3), (4, 0))
    assert packing.num_tokens == packing.padded_tokens == 58
    with pytest.raises(ValueError, match="positive"):
        join([3, 0], 8)


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 1000))
def test_joined_rows_hold_every_sequence_once_and_no_two_would_fit_in_one(lengths: list[int], budget: int) -> None:
    packing = join(lengths, budget)
    assert sorted(index for row in packing.batches for index in row) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in row) for row in packing.batches]
    assert all(total <= budget or len(row) == 1 for total, row in zip(sums, packing.batches, strict=True))
    assert packing.waste == 0.0
    least = sorted(sums)[:2]
    assert len(least) < 2 or sum(least) > budget
