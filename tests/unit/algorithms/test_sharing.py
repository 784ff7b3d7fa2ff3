"""Shares of micro-batches by hand, and what always holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.sharing import share_out


def test_by_hand() -> None:
    # 7 to the first, 6 to the second, 5 to the second (11), 4 to the first (11), 3 to the first
    assert share_out([3, 7, 5, 6, 4], 2) == [[0, 1, 4], [2, 3]]
    assert share_out([5], 3) == [[0], [], []]
    assert share_out([], 2) == [[], []]
    assert share_out([0, 0, 0], 2) == [[0, 2], [1]]
    with pytest.raises(ValueError, match="0 processes"):
        share_out([1], 0)


@given(costs=st.lists(st.integers(0, 1000), max_size=40), processes=st.integers(1, 8))
def test_each_once_and_balanced(costs: list[int], processes: int) -> None:
    shares = share_out(costs, processes)
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))
    loads = [sum(costs[index] for index in share) for share in shares]
    # the process with the most was the one with the least before it got its last
    assert max(loads) - min(loads) <= max(costs, default=0)
