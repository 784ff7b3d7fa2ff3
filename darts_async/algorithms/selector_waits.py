"""What the selector waits for, told from its live groups: candidates, scores, the learner, further plans.

Pure. Named are the groups that have been live the longest; the others are a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from darts_async.algorithms.group import Candidate, Status
from darts_async.algorithms.wait_graph import Pending, count
from darts_async.messages import candidate_id

if TYPE_CHECKING:
    from darts_async.algorithms.live_group import LiveGroup

__all__ = ["selector_waits"]

_MAX_NAMED: Final = 4


def selector_waits(groups: Iterable[LiveGroup]) -> list[Pending]:
    """groups: every group that has not ended, in order of their plans."""
    found: list[Pending] = []
    num_running = num_ready = num_released = newest = 0
    scoring: list[int] = []
    scored_groups: list[str] = []
    for group in groups:
        newest = group.plan.group_id
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
        if wanted := [candidate_id(group.plan.group_id, c.index) for c in group.state.candidates if _is_scored(c)]:
            scoring += wanted
            scored_groups.append(str(group.plan.group_id))
        num_ready += group.state.complete
    if num_running > len(found):
        what = f"waits for candidates of {count(num_running - len(found), 'further group')}"
        found.append(Pending(found[0].whom, what, num_running, key="further"))
    if scoring:
        named = ", ".join(scored_groups[:_MAX_NAMED]) + (", ..." if len(scored_groups) > _MAX_NAMED else "")
        what = f"waits for the reward function on {count(len(scoring), 'response')} (group {named})"
        found.append(Pending("", what, tuple(scoring), key="scores"))
    if num_ready and num_running:
        what = f"holds {count(num_ready, 'complete group')} back until older ones of their steps are complete"
        found.append(Pending(found[0].whom, what, num_ready, key="ready"))
    if not num_running:
        found.append(Pending("allocator-0", "waits for plans of groups", newest))
        if num_released:
            what = f"waits until {count(num_released, 'group')} that it handed on are trained"
            found.append(Pending("learner-0", what, (newest, num_released), key="released"))
    return found


def _is_scored(candidate: Candidate) -> bool:
    return candidate.status is Status.FINISHED and candidate.reward is None


def _candidates(group: LiveGroup, running: tuple[int, ...]) -> Pending:
    replica = group.plan.replica if group.replica is None else group.replica
    whom = f"generator-{replica}"
    kind = "group" if group.trains else "held-out group"
    tokens = tuple(group.state.candidate(index).tokens for index in running)
    what = f"waits for {count(len(running), 'candidate')} of {kind} {group.plan.group_id} on {whom}"
    return Pending(whom, what, tokens, key=f"group {group.plan.group_id}")
