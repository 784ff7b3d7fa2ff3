"""Events of the Chrome trace format, from records: process and thread numbers with their names, and whole arrows.

Invariants: every number has its name before it is used; an arrow begins at the earliest point of its group and ends at
the latest, however many of the points between them are missing, and a group of one point has none.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from darts_async.tracing.records import Counter, Instant, Note, ProcessStarted, Span

__all__ = ["Event", "Flows", "Translator"]

Event: TypeAlias = dict[str, Any]
_Point: TypeAlias = tuple[int, int, int]
"""Microsecond, file, which flow point of the file."""

_ROLES: Final = ("allocator", "generator", "selector", "learner")
"""From top to bottom."""
_LANES: Final = (
    "state",
    "dispatch",
    "evaluate",
    "prefill",
    "decode",
    "swap",
    "swap phases",
    "abort",
    "cancel",
    "groups",
)
_MOST_RANKS: Final = 10_000
_FIRST_TID: Final = 1001
"""A thread with the number of a process would pass for its main thread. No two lanes of a run have the same one."""


class Flows:
    """The points of all groups. Holds two of each group."""

    def __init__(self) -> None:
        self._ends: dict[int, tuple[_Point, _Point]] = {}

    def add(self, file: int, offset_us: int, span: Span, first_point: int) -> None:
        """A span's points; all spans come before the first `phase`."""
        for number, (flow, at_us) in enumerate(span.flows or (), first_point):
            point = (offset_us + span.ts + min(at_us, span.dur - 1), file, number)
            first, last = self._ends.get(flow, (point, point))
            self._ends[flow] = (min(first, point), max(last, point))

    def phase(self, flow: int, point: _Point) -> str:
        """Return `s`, `t` or `f`; empty: no arrow touches it."""
        first, last = self._ends.get(flow, (point, point))
        if first == last or not first <= point <= last:
            return ""
        return "s" if point == first else "f" if point == last else "t"


class Translator:
    """Turns the records of several files into events."""

    def __init__(self, flows: Flows) -> None:
        self._flows = flows
        self._pids: dict[tuple[int, int], int] = {}
        """By file and number in it."""
        self._names: set[str] = set()
        self._tids: dict[tuple[int, str], int] = {}

    def events(
        self,
        file: int,
        offset_us: int,
        record: ProcessStarted | Span | Instant | Counter | Note,
        first_point: int = 0,
    ) -> list[Event]:
        """Return what a record becomes. first_point: which flow point of the file its first one is, if it has any."""
        ts = offset_us + record.ts
        if isinstance(record, ProcessStarted):
            return self._begin(file, record)
        pid = self._pids.get((file, record.process))
        if pid is None:
            return []  # its beginning is lost
        match record:
            case Span():
                tid, named = self._tid(pid, record.lane)
                span = {
                    "ph": "X",
                    "pid": pid,
                    "tid": tid,
                    "ts": ts,
                    "dur": record.dur,
                    "name": record.name,
                    "cat": record.category,
                }
                if record.args is not None:
                    span["args"] = record.args
                arrows = self._arrows(file, span, record, first_point) if record.flows else []
                return [*named, span, *arrows]
            case Instant():
                tid, named = self._tid(pid, record.lane)
                instant = {"ph": "i", "pid": pid, "tid": tid, "ts": ts, "s": "t"}
                instant |= {"name": record.name, "cat": record.category}
                if record.args is not None:
                    instant["args"] = record.args
                return [*named, instant]
            case Counter():
                name, series = _series(record.name)
                value = {series: record.value}
                return [{"ph": "C", "pid": pid, "tid": 0, "ts": ts, "name": name, "args": value}]
            case Note():
                return self._note(pid, ts, record.text)

    def cut(self, ts: int, text: str) -> list[Event]:
        """Return a last note, behind which nothing of any process follows."""
        return self._note(1, ts, text)

    def _note(self, pid: int, ts: int, text: str) -> list[Event]:
        tid, named = self._tid(pid, "notes")
        return [*named, {"ph": "i", "pid": pid, "tid": tid, "ts": ts, "s": "g", "name": text, "cat": "note"}]

    def _arrows(self, file: int, span: Event, record: Span, first_point: int) -> list[Event]:
        """The span's ends of arrows. They are tied to it by lying in it."""
        events = []
        for number, (flow, offset_us) in enumerate(record.flows or (), first_point):
            ts = span["ts"] + min(offset_us, record.dur - 1)
            if phase := self._flows.phase(flow, (ts, file, number)):
                event = {"ph": phase, "pid": span["pid"], "tid": span["tid"], "ts": ts}
                event |= {"id": flow, "name": "group", "cat": "group"}
                events.append({**event, "bp": "e"} if phase == "f" else event)
        return events

    def _begin(self, file: int, record: ProcessStarted) -> list[Event]:
        pid = self._pids[file, record.process] = len(self._pids) + 1
        name = record.name if not record.start else f"{record.name} (start {record.start + 1})"
        while name in self._names:
            name += "'"
        self._names.add(name)
        role, _, rank = record.name.rpartition("-")
        place = _ROLES.index(role) if role in _ROLES else len(_ROLES)
        order = place * _MOST_RANKS + (int(rank) if rank.isdecimal() else 0)
        events = [_named("process", pid, 0, name), _sorted("process", pid, 0, order)]
        if record.pid:
            labels = {"labels": f"pid {record.pid}"}
            events.append({"ph": "M", "pid": pid, "tid": 0, "name": "process_labels", "args": labels})
        return events

    def _tid(self, pid: int, lane: str) -> tuple[int, list[Event]]:
        """The lane's number, with its name when it is new."""
        tid = self._tids.get((pid, lane))
        if tid is not None:
            return tid, []
        tid = self._tids[pid, lane] = _FIRST_TID + len(self._tids)
        order = _LANES.index(lane) if lane in _LANES else len(_LANES)
        return tid, [_named("thread", pid, tid, lane), _sorted("thread", pid, tid, order)]


def _series(counter: str) -> tuple[str, str]:
    """A counter and its series: viewers write one behind the other."""
    at = max(counter.rfind("/"), counter.rfind(" "))
    return (counter[:at], counter[at + 1 :]) if at > 0 else (counter, "value")


def _named(what: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "pid": pid, "tid": tid, "name": f"{what}_name", "args": {"name": name}}


def _sorted(what: str, pid: int, tid: int, order: int) -> Event:
    return {"ph": "M", "pid": pid, "tid": tid, "name": f"{what}_sort_index", "args": {"sort_index": order}}
