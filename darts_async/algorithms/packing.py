"""Micro-batches: which sequences go through the model together.

`pack`: a micro-batch is padded to its longest sequence, so it costs rows x longest tokens; that product stays within a
budget. `join`: sequences stand one after the other in one row, and their sum stays within it.
Invariants: every sequence is in exactly one micro-batch; none is over budget unless it is one single sequence that is
over budget by itself; the result depends on the lengths and their order alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packing:
    """Micro-batches as indices into the lengths that were packed, longest sequences first."""

    batches: tuple[tuple[int, ...], ...]
    num_tokens: int
    """Tokens of all sequences."""
    padded_tokens: int
    """Tokens that go through the model, padding included."""

    @property
    def waste(self) -> float:
        """Share of the padded tokens that is padding, in 0..1."""
        return 1.0 - self.num_tokens / self.padded_tokens if self.padded_tokens else 0.0


def pack(lengths: Sequence[int], budget: int, overhead_tokens: int = 0) -> Packing:
    """Bin sequences into micro-batches of at most `budget` padded tokens. Raises `ValueError` for a length below 1.

    The cheapest packing there is, where a micro-batch costs its padded tokens and `overhead_tokens` for being one
    (what a forward and backward pass costs before its first token, in tokens). In order of length, neighbours share a
    micro-batch in some cheapest packing, so it is a shortest path over the sorted sequences: n x rows-per-batch steps.
    Filling every micro-batch to the budget instead would, with long-tailed lengths, pad more than it carries.
    """
    if budget < 1 or any(length < 1 for length in lengths):
        raise ValueError(f"packing needs positive lengths and a positive budget, got {budget} and {list(lengths)}")
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    cost = [0] * (len(order) + 1)  # of the sequences from this one on, in order of length
    stop = [len(order)] * (len(order) + 1)  # where the micro-batch that starts with this one ends
    for start in range(len(order) - 1, -1, -1):
        width = lengths[order[start]]
        last = min(start + max(1, budget // width), len(order))
        choices = [(width * (end - start) + overhead_tokens + cost[end], end) for end in range(start + 1, last + 1)]
        cost[start], stop[start] = min(choices, key=lambda choice: (choice[0], -choice[1]))
    batches: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        batches.append(tuple(order[start : stop[start]]))
        start = stop[start]
    padded = sum(lengths[batch[0]] * len(batch) for batch in batches)
    return Packing(tuple(batches), num_tokens=sum(lengths), padded_tokens=padded)


def join(lengths: Sequence[int], budget: int) -> Packing:
    """Bin sequences into rows of at most `budget` tokens, without padding. Raises `ValueError` for a length below 1.

    First fit, longest first: at most 11/9 of the fewest rows there can be, and one (Johnson 1973).
    """
    if budget < 1 or any(length < 1 for length in lengths):
        raise ValueError(f"packing needs positive lengths and a positive budget, got {budget} and {list(lengths)}")
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = next((row for row, left in enumerate(free) if left >= lengths[index]), len(rows))
        if place == len(rows):
            rows.append([])
            free.append(budget)
        rows[place].append(index)
        free[place] -= lengths[index]
    return Packing(tuple(tuple(row) for row in rows), num_tokens=sum(lengths), padded_tokens=sum(lengths))
