"""Which process trains which micro-batches of a step.

Every process computes this by itself from the same numbers, so it must depend on them alone. Invariant: every
micro-batch belongs to exactly one process.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["share_out"]


def share_out(costs: Sequence[int], processes: int) -> list[list[int]]:
    """Return, for each process, the indices of its micro-batches in ascending order; loads are about equal.

    Longest processing time first (Graham 1969): the costliest that is left goes to the process with the least so far,
    which is at most a third above the best balance there is. Raises `ValueError` without a process.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes can share nothing")
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        # Equal loads: the one with fewer micro-batches, then the lower rank.
        least = min(range(processes), key=lambda rank: (loads[rank], len(shares[rank]), rank))
        shares[least].append(index)
        loads[least] += costs[index]
    return [sorted(share) for share in shares]
