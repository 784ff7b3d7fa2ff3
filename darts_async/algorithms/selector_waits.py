"""What the selector waits for, told from its live groups: candidates, scores, the learner, further plans.

Pure. Named are the groups that have been live the longest; the others are a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from darts_async.algorithms.group import Status
from darts_async.algorithms.wait_graph import Pending

if TYPE_CHECKING:
    from darts_async.algorithms.live_group import LiveGroup

__all__ = ["selector_waits"]

_MAX_NAMED: Final = 4


def selector_waits(groups: Iterable[LiveGroup]) -> list[Pending]:
    """groups: every group that has not ended, in order of their plans."""
    found: list[Pending] = []
    num_running = num_scoring = num_ready = num_released = 0
    for group in groups:
        if group.ended:
            continue
        if group.released:
            num_released += 1
            continue
        running = group.state.running
        if running:
            num_running += 1
            if len(found) < _MAX_NAMED:
                found.append(_candidates(group, running))
        num_scoring += sum(c.status is Status.FINISHED and c.reward is None for c in group.state.candidates)
        num_ready += group.state.complete
    if num_running > len(found):
        found.append(Pending(found[0].whom, f"waits for candidates of {num_running - len(found)} further groups"))
    if num_scoring:
        found.append(Pending("", f"scores {num_scoring} responses"))
    if num_ready and num_running:
        what = f"holds {num_ready} complete groups back until older ones of their steps are complete"
        found.append(Pending(found[0].whom, what))
    if not num_running:
        found.append(Pending("allocator-0", "waits for plans of groups"))
        if num_released:
            found.append(Pending("learner-0", f"waits until {num_released} groups are trained"))
    return found


def _candidates(group: LiveGroup, running: tuple[int, ...]) -> Pending:
    replica = group.plan.replica if group.replica is None else group.replica
    whom = f"generator-{replica}"
    kind = "group" if group.trains else "held-out group"
    tokens = tuple(group.state.candidate(index).tokens for index in running)
    return Pending(whom, f"waits for {len(running)} candidates of {kind} {group.plan.group_id} on {whom}", tokens)
