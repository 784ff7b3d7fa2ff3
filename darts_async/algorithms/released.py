"""Groups that were given to the learner and are not over: what has to be sent again when one of the two was lost.

Pure. Invariants: a group is in here from its release to its end (trained or swept), so nothing that was released is
forgotten; groups are sent again in the order of their release; of an epoch each group is sent at most once, and none
before the learner's state of that epoch was taken in. Memory: what admission lets live, with its responses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from darts_async.messages import TrainGroup

__all__ = ["Released"]


class Released:
    """In order of release."""

    def __init__(self, *, waiting: bool = False) -> None:
        """`waiting`: the selector was started anew and does not know yet what the learner has: nothing is sent until
        it does."""
        self.epoch = 0
        """Of the last state of the learner that was taken in."""
        self._waiting = waiting
        self._groups: dict[int, TrainGroup | None] = {}
        """None: its responses died with the selector that had released it."""

    def __contains__(self, group_id: int) -> bool:
        return group_id in self._groups

    def __len__(self) -> int:
        return len(self._groups)

    def restore(self, group_ids: Iterable[int]) -> None:
        """Groups that an earlier start of the selector released, in order."""
        self._groups |= dict.fromkeys(group_ids)

    def give(self, group: TrainGroup) -> list[TrainGroup]:
        """A group is released. Return what is to be sent now."""
        group = msgspec.structs.replace(group, epoch=self.epoch)
        self._groups[group.group_id] = group
        return [] if self._waiting else [group]

    def over(self, group_id: int) -> None:
        """It was trained or swept."""
        self._groups.pop(group_id, None)

    def take_state(self, epoch: int, received: Collection[int]) -> tuple[list[TrainGroup], list[int]]:
        """The learner has only these of the groups in here. Return what is to be sent again, and what is lost: neither
        the learner nor the selector has it. Both in order of release; lost groups are left to the caller to end."""
        self.epoch, self._waiting = epoch, False
        here = frozenset(received)
        again: list[TrainGroup] = []
        lost: list[int] = []
        for group_id, group in self._groups.items():
            if group_id in here:
                continue
            if group is None:
                lost.append(group_id)
            else:
                self._groups[group_id] = renewed = msgspec.structs.replace(group, epoch=epoch)
                again.append(renewed)
        return again, lost
