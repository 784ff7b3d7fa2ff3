"""Is this a trace? Everything that the format asks for, and what would be drawn wrongly without an error.

Holds the whole trace in memory: for tests and for `python -m darts_async.tracing RUN --check`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["TraceCheck", "check_trace"]

_NEEDS: Final = {
    "X": {"pid", "tid", "ts", "dur", "name", "cat"},
    "i": {"pid", "tid", "ts", "s", "name"},
    "C": {"pid", "ts", "name", "args"},
    "s": {"pid", "tid", "ts", "id", "name", "cat"},
    "t": {"pid", "tid", "ts", "id", "name", "cat"},
    "f": {"pid", "tid", "ts", "id", "name", "cat", "bp"},
    "M": {"pid", "name", "args"},
}
_MOST: Final = 50


@dataclass(slots=True)
class TraceCheck:
    """What was found."""

    violations: list[str] = field(default_factory=list)
    """The first few."""
    processes: dict[int, str] = field(default_factory=dict)
    """By pid."""
    spans: Counter[str] = field(default_factory=Counter)
    """By category."""
    instants: Counter[str] = field(default_factory=Counter)
    """By category."""
    counters: set[str] = field(default_factory=set)
    arrows: int = 0
    """Groups that have one."""

    def wrong(self, text: str) -> None:
        """Something is."""
        if len(self.violations) < _MOST:
            self.violations.append(text)


def check_trace(document: Any) -> TraceCheck:
    """Look at a decoded `trace.json`. Raises nothing for what it may hold."""
    check = TraceCheck()
    events = document.get("traceEvents") if isinstance(document, dict) else None
    if not isinstance(events, list):
        check.wrong("no list of traceEvents")
        return check
    walk = _Walk(check)
    for event in events:
        if _is_event(event, check):
            walk.take(event)
    walk.end()
    return check


class _Walk:
    """What has to be remembered from one event to the next."""

    def __init__(self, check: TraceCheck) -> None:
        self._check = check
        self._lanes: set[tuple[int, int]] = set()
        """That have a name."""
        self._last: dict[tuple[object, ...], int] = defaultdict(int)
        self._ends: dict[tuple[int, int], int] = defaultdict(int)
        """Of each lane's last span."""
        self._flows: dict[int, list[tuple[int, str]]] = defaultdict(list)

    def take(self, event: dict[str, Any]) -> None:
        """The next event."""
        check, phase, pid = self._check, event["ph"], event["pid"]
        if phase == "M":
            self._name(event)
            return
        lane = (pid, event.get("tid", 0))
        track = (pid, "C", event["name"], *event["args"]) if phase == "C" else lane
        if pid not in check.processes:
            check.wrong(f"process {pid} is used before it has a name")
        if phase != "C" and lane not in self._lanes:
            check.wrong(f"thread {lane} is used before it has a name")
        if event["ts"] < self._last[track]:
            check.wrong(f"time goes back on {track}: {self._last[track]} to {event['ts']}")
        self._last[track] = event["ts"]
        match phase:
            case "C":
                check.counters |= {f"{event['name']}/{series}" for series in event["args"]}
                if not all(isinstance(value, int | float) for value in event["args"].values()):
                    check.wrong(f"counter {event['name']} of {event['args']}")
            case "X":
                check.spans[event["cat"]] += 1
                if event["dur"] < 1 or event["ts"] < self._ends[lane]:
                    check.wrong(f"a span of {lane} overlaps the one before it, or is empty: {event}")
                self._ends[lane] = event["ts"] + event["dur"]
            case "i":
                check.instants[event.get("cat", "")] += 1
            case _:
                self._flows[event["id"]].append((event["ts"], phase))
                if event["ts"] >= self._ends[lane]:
                    check.wrong(f"an arrow of group {event['id']} is tied to no span of {lane}")

    def end(self) -> None:
        """Look at what is true of all events together."""
        for flow, points in self._flows.items():
            phases = "".join(phase for _, phase in sorted(points, key=lambda point: point[0]))
            if len(phases) < 2 or phases != f"s{'t' * (len(phases) - 2)}f":
                self._check.wrong(f"the arrow of group {flow} is {phases!r}")
        self._check.arrows = len(self._flows)

    def _name(self, event: dict[str, Any]) -> None:
        check = self._check
        if event["name"] == "process_name":
            name = event["args"]["name"]
            if event["pid"] in check.processes or name in check.processes.values():
                check.wrong(f"process {event['pid']} {name!r} has a name twice")
            check.processes[event["pid"]] = name
        elif event["name"] == "thread_name":
            if (lane := (event["pid"], event["tid"])) in self._lanes:
                check.wrong(f"thread {lane} has a name twice")
            self._lanes.add(lane)


def _is_event(event: Any, check: TraceCheck) -> bool:
    if not isinstance(event, dict) or event.get("ph") not in _NEEDS:
        check.wrong(f"no event: {event!r:.200}")
        return False
    missing = _NEEDS[event["ph"]] - event.keys()
    numbers = [event[key] for key in ("pid", "tid", "ts", "dur", "id") if key in event]
    if missing or not all(isinstance(number, int) and number >= 0 for number in numbers):
        check.wrong(f"lacks {sorted(missing)} or has no such numbers: {event!r:.200}")
        return False
    return True
