"""A role's side of the trace: lanes with spans and instants, what it is at, counters.

Made for call sites of one line. Belongs to the role's event loop; what runs in other threads is recorded by whoever
waits for it. Invariants: on a lane nothing overlaps and times only go up, whatever is recorded in which order (what
would begin before the last span's end begins there); without a trace every call does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final

from darts_async import clock
from darts_async.tracing.records import Counter, Instant, Span, Value
from darts_async.tracing.trace_file import TraceFile

__all__ = ["OFF", "Lane", "RoleTrace", "current", "record_as", "trace_of"]

_GAUGES_S: Final = 0.1
"""Between two points of a gauge; of several changes in this time only the last one is shown, at its own moment."""
_SHOWN: Final = ("queue/", "staleness/", "generator/held", "generator/tokens_per_s", "allocator/live_groups")
"""Metrics, by the beginning of their names, that have a counter track."""
_CHARS: Final = 160


class Lane:
    """One row of a role in the picture."""

    __slots__ = ("_end_us", "_file", "_name", "_process")

    def __init__(self, file: TraceFile, process: int, name: str) -> None:
        self._file = file
        self._process = process
        self._name = name
        self._end_us = 0
        """Of what is on it so far."""

    def span(
        self,
        category: str,
        name: str,
        began_s: float,
        ended_s: float | None = None,
        *,
        flows: Iterable[tuple[int, float]] = (),
        **args: Value,
    ) -> None:
        """Something began then and ended now, or at `ended_s`. flows: groups that came by, in order of time, and when
        (what lies outside of the span is taken for its nearest moment)."""
        origin_us = self._file.origin_us
        ended_s = clock.now_s() if ended_s is None else ended_s
        begin = max(int(began_s * 1e6) - origin_us, self._end_us)
        self._end_us = end = max(int(ended_s * 1e6) - origin_us, begin + 1)
        points = tuple(
            (flow, min(max(int(at_s * 1e6) - origin_us - begin, 0), end - begin - 1)) for flow, at_s in flows
        )
        dur = end - begin
        self._file.put(
            Span(begin, self._process, self._name, category, name[:_CHARS], dur, args or None, points or None)
        )

    def passes(self, category: str, group: int, began_s: float, **args: Value) -> None:
        """A span of a group, with its arrow."""
        self.span(category, f"{category} group {group}", began_s, None, flows=((group, began_s),), **args)

    def instant(self, category: str, name: str, **args: Value) -> None:
        """Something happens now."""
        self._end_us = max(self._file.now_us(), self._end_us)
        self._file.put(Instant(self._end_us, self._process, self._name, category, name[:_CHARS], args or None))


class _Gauge:
    """One that is shown."""

    __slots__ = ("next_s", "pending_s", "value")

    def __init__(self) -> None:
        self.value = math.nan
        self.pending_s: float | None = None
        """Since when it has the value, if that is not recorded."""
        self.next_s = -math.inf
        """When the next point may be recorded."""


class RoleTrace:
    """Everything of one start of a role."""

    is_on = True

    def __init__(self, file: TraceFile, name: str, start: int = 0) -> None:
        """`file` may have other roles too; whoever opened it closes it, after `close` here."""
        self._file = file
        self._process = file.begin_process(name, start)
        self._lanes: dict[str, Lane] = {}
        self._state = ""
        self._since_s = clock.now_s()
        self._gauges: dict[str, _Gauge] = {}
        """Those that are shown."""
        self._num_gauges = 0
        """All that the role has."""

    def lane(self, name: str) -> Lane:
        """The row of this name."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(self._file, self._process, name)
        return lane

    def state(self, text: str) -> None:
        """What the role is at, or waits for, from now on."""
        if text == self._state:
            return
        now_s = clock.now_s()
        if self._state:
            waits = self._state.startswith("waiting")
            self.lane("state").span("waiting" if waits else "state", self._state, self._since_s, now_s)
        self._state, self._since_s = text, now_s

    def turns(self, before: str, text: str) -> None:
        """What the role is at from now on, if it was at something else that is named."""
        if self._state == before:
            self.state(text)

    def gauges(self, values: Mapping[str, float]) -> None:
        """Look at all of a role's gauges; may be done with each message."""
        now_s = clock.now_s()
        if len(values) != self._num_gauges:
            self._num_gauges = len(values)
            for name in values:
                if name.startswith(_SHOWN):
                    self._gauges.setdefault(name, _Gauge())
        for name, gauge in self._gauges.items():
            value = values.get(name, gauge.value)
            if value != gauge.value:
                if gauge.pending_s is not None and now_s >= gauge.next_s:
                    self.counter(name, gauge.value, gauge.pending_s)
                gauge.value, gauge.pending_s = value, now_s
            if gauge.pending_s is not None and now_s >= gauge.next_s:
                self.counter(name, gauge.value, gauge.pending_s)
                gauge.pending_s, gauge.next_s = None, now_s + _GAUGES_S

    def counters(self, values: Mapping[str, float]) -> None:
        """Those of the values that have a track, as they are now. They are not among the gauges."""
        for name, value in values.items():
            if name.startswith(_SHOWN):
                self.counter(name, value)

    def counter(self, name: str, value: float, at_s: float | None = None) -> None:
        """A number, from now on or from that moment on, which lies behind the ones told before of this name."""
        if math.isfinite(value):
            at_us = self._file.now_us() if at_s is None else int(at_s * 1e6) - self._file.origin_us
            self._file.put(Counter(max(at_us, 0), self._process, name, value))

    def take_warning(self) -> str:
        """Return what a person should be told of the trace, once; mostly nothing."""
        return self._file.take_warning()

    def close(self) -> None:
        """End what the role is at."""
        self.state("")
        for name, gauge in self._gauges.items():
            if gauge.pending_s is not None:
                self.counter(name, gauge.value, gauge.pending_s)
                gauge.pending_s = None


class _OffLane(Lane):
    __slots__ = ()

    def __init__(self) -> None:
        pass

    def span(self, *_: object, **__: object) -> None:
        pass

    def passes(self, *_: object, **__: object) -> None:
        pass

    def instant(self, *_: object, **__: object) -> None:
        pass


class _Off(RoleTrace):
    """In the place of one, where no trace is wanted."""

    is_on = False

    def __init__(self) -> None:
        self._nowhere = _OffLane()

    def lane(self, name: str) -> Lane:  # noqa: ARG002 - they are all one
        return self._nowhere

    def state(self, text: str) -> None:
        pass

    def turns(self, before: str, text: str) -> None:
        pass

    def gauges(self, values: Mapping[str, float]) -> None:
        pass

    def counters(self, values: Mapping[str, float]) -> None:
        pass

    def counter(self, name: str, value: float, at_s: float | None = None) -> None:
        pass

    def take_warning(self) -> str:
        return ""

    def close(self) -> None:
        pass


OFF: Final[RoleTrace] = _Off()
_CURRENT: ContextVar[RoleTrace] = ContextVar("trace", default=OFF)


def trace_of(file: TraceFile | None, name: str, start: int = 0) -> RoleTrace:
    """A role's trace in a file, or none."""
    return OFF if file is None else RoleTrace(file, name, start)


def record_as(trace: RoleTrace) -> None:
    """From now on it is this one that whatever runs in this context, and in tasks that it starts, records into."""
    _CURRENT.set(trace)


def current() -> RoleTrace:
    """The trace of the role that this runs for; `OFF` where there is none."""
    return _CURRENT.get()
