"""What the learner's thread computes: one lane, one span a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, cast

from darts_async.tracing.role_trace import current

__all__ = ["LearnerSpans"]

_CATEGORIES: Final = {
    "accumulate": "forward_backward",
    "apply_step": "optimiser",
    "publish": "publish",
    "save_checkpoint": "checkpoint",
    "save_recovery": "checkpoint",
}
"""By the name of the trainer's function."""
_INTO_S: Final = 1e-4
"""Arrows end so far into a span. On virtual time groups are sent and received in the same moment; where they are sent
they stand a microsecond apart, and must not stand behind this."""


class _Group(Protocol):
    @property
    def group_id(self) -> int: ...


class LearnerSpans:
    """Of one learner; made in its context."""

    def __init__(self) -> None:
        trace = current()
        self._lane = trace.lane("compute")
        self._is_on = trace.is_on
        self.stepped: Callable[[Mapping[str, float]], None] = trace.counters
        """A step is over, with these metrics."""
        self.gauges = trace.gauges
        """Look at the role's gauges."""

    def computed(self, function: Callable[..., object], arguments: Sequence[object], began_s: float) -> None:
        """A call has returned. Calls follow each other, so one begins at the earliest when the one before has ended."""
        if not self._is_on:
            return
        name = getattr(function, "__name__", "call").strip("_")
        category = _CATEGORIES.get(name, "compute")
        if name == "accumulate":
            groups = list(cast("Iterable[_Group]", arguments[0]))
            flows = [(group.group_id, began_s + _INTO_S) for group in groups]
            self._lane.span(category, "forward and backward", began_s, flows=flows, groups=len(groups))
        else:
            self._lane.span(category, name.replace("_", " "), began_s)
