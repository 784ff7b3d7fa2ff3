"""How many groups the learner wants before it starts a forward and backward pass: the grain of streaming.

Too fine is slow: in one published ablation, training on single mini-batches took 62 % longer than on four at a time.
"""

from __future__ import annotations

__all__ = ["groups_wanted"]


def groups_wanted(*, left: int, min_chunk: int, whole_batch: bool) -> int:
    """How many groups must be here, of the `left` ones of the step that have no gradient yet.

    whole_batch: mode `sync`, which waits for all of them, whatever `queues.min_chunk` says.
    """
    return left if whole_batch else min(min_chunk, left)
