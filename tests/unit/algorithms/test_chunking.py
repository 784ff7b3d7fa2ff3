"""How many groups a forward and backward pass waits for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.algorithms.chunking import groups_wanted


@pytest.mark.parametrize(
    ("left", "min_chunk", "whole_batch", "expected"),
    [(8, 1, False, 1), (8, 3, False, 3), (2, 3, False, 2), (8, 8, False, 8), (8, 1, True, 8), (3, 8, True, 3)],
)
def test_groups_wanted(left: int, min_chunk: int, whole_batch: bool, expected: int) -> None:
    assert groups_wanted(left=left, min_chunk=min_chunk, whole_batch=whole_batch) == expected


@given(st.integers(1, 50), st.integers(1, 50), st.data())
def test_a_step_is_trained_whole_in_passes_of_at_least_min_chunk_but_the_last(
    step: int, min_chunk: int, data: st.DataObject
) -> None:
    left, waiting, passes = step, 0, []
    while left:
        waiting += data.draw(st.integers(1, left - waiting), label="arrive")
        if waiting >= groups_wanted(left=left, min_chunk=min_chunk, whole_batch=False):
            passes.append(waiting)
            left, waiting = left - waiting, 0
    assert sum(passes) == step
    assert all(size >= min_chunk for size in passes[:-1])
