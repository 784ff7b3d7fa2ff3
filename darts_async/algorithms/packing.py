"""Micro-batches: which sequences go through the model together.

A micro-batch is padded to its longest sequence, so it costs rows x longest tokens; that product stays within a budget.
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


def pack(lengths: Sequence[int], budget: int) -> Packing:
    """Bin sequences into micro-batches of at most `budget` padded tokens. Raises `ValueError` for a length below 1.

    Longest first: the first sequence of a micro-batch fixes its width, and the next ones in order, which are the
    nearest in length, fill `budget // width` rows. Neighbours in length share a micro-batch, which keeps padding low.
    """
    if budget < 1 or any(length < 1 for length in lengths):
        raise ValueError(f"packing needs positive lengths and a positive budget, got {budget} and {list(lengths)}")
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[tuple[int, ...]] = []
    padded = 0
    start = 0
    while start < len(order):
        width = lengths[order[start]]
        rows = order[start : start + max(1, budget // width)]
        batches.append(tuple(rows))
        padded += width * len(rows)
        start += len(rows)
    return Packing(tuple(batches), num_tokens=sum(lengths), padded_tokens=padded)
