"""A stretch of `trace.json`, in the trace event format of Chrome.

Read once, event by event: kept are the stretch's spans, at most `MAX_SPANS`, and how long groups waited over the whole
run. A file that is not written one event a line is read whole if it is small, and refused if it is not; of one that is
cut off, what is whole counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from darts_async.report.group_ages import GroupAges
from darts_async.report.timeline import Span, Timeline, role_order

__all__ = ["MAX_SPANS", "read_trace"]

MAX_SPANS: Final = 4000
_COARSE: Final = frozenset({"state", "compute", "group", "swap_phase"})
"""Categories that lie around the others."""
MAX_WHOLE_BYTES: Final = 32 << 20
MAX_LINE_BYTES: Final = 1 << 20
MAX_ROLES: Final = 64
_MICRO: Final = 1e6


class _Event(msgspec.Struct):
    """Chrome's trace event, as far as it matters here."""

    ph: str = ""
    name: str = ""
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0
    pid: int | str = 0
    args: dict[str, Any] = {}
    id: int | str = ""
    """Of a flow: the group."""


class _Whole(msgspec.Struct):
    traceEvents: list[_Event] = []  # noqa: N815 - Chrome's name


_decode: Final = msgspec.json.Decoder(_Event).decode


def read_trace(path: Path, stretch: tuple[float, float] | None) -> Timeline:
    """Read a trace's stretch; None: its first half minute. Raises `OSError`."""
    start_s, stop_s = stretch or (0.0, 30.0)
    timeline = Timeline("trace", start_s, stop_s)
    names: dict[int | str, str] = {}
    found: list[tuple[int | str, _Event]] = []
    ages = GroupAges()
    try:
        for event in _events(path):
            if event.ph == "M" and event.name == "process_name" and len(names) < MAX_ROLES:
                names[event.pid] = str(event.args.get("name", ""))[:100]
            elif event.ph in {"s", "t", "f"}:
                ages.seen(event.id, names.get(event.pid, ""), event.ts / _MICRO)
                if event.ph == "f":
                    ages.over(event.id)
            elif event.ph in {"X", "i", "I"} and _is_within(event, start_s, stop_s):
                if event.cat in _COARSE:
                    continue
                if len(found) < MAX_SPANS:
                    found.append((event.pid, event))
                else:
                    timeline.num_left_out += 1
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        timeline.problem = f"trace.json cannot be read: {error}"
        if not found:
            return Timeline(problem=timeline.problem)
    timeline.spans = _tidied(_spans(names, found))
    if timeline.num_left_out and all(one.start_s <= other.start_s for one, other in pairwise(_spans(names, found))):
        # In order of time, as ours is: a shorter stretch of which nothing is missing.
        timeline.stop_s, timeline.num_left_out = timeline.spans[-1].start_s, 0
    timeline.ages = ages.points()
    timeline.roles = sorted({span.role for span in timeline.spans}, key=role_order)
    if not timeline.spans:
        return Timeline(problem=timeline.problem or "trace.json has no span in the stretch that is shown")
    return timeline


def _spans(names: Mapping[int | str, str], found: Sequence[tuple[int | str, _Event]]) -> list[Span]:
    return [_span(names.get(pid) or f"process {pid}", event) for pid, event in found]


def _span(role: str, event: _Event) -> Span:
    category = event.cat.split(",")[0][:40] or event.name[:40]
    return Span(role, category, event.ts / _MICRO, (event.dur if event.ph == "X" else 0.0) / _MICRO)


def _tidied(spans: Iterable[Span]) -> list[Span]:
    """By start; of cancels the moments alone, where they are known; waiting only of the learner, whose is exact."""
    ordered = sorted(spans, key=lambda span: span.start_s)
    moments = any(span.category == "cancel" and not span.duration_s for span in ordered)
    return [
        span
        for span in ordered
        if not (span.category == "cancel" and span.duration_s and moments)
        and not (span.category == "waiting" and not span.role.startswith("learner"))
    ]


def _is_within(event: _Event, start_s: float, stop_s: float) -> bool:
    return event.ts <= stop_s * _MICRO and event.ts + event.dur >= start_s * _MICRO


def _events(path: Path) -> Iterator[_Event]:
    """All events of the file; of an unfinished one those that are whole."""
    with path.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES)
        if len(line) == MAX_LINE_BYTES or path.stat().st_size == len(line):
            yield from _whole(path)
            return
        while line:
            text = line.strip().rstrip(b",")
            bracket = text.find(b"[")
            if bracket >= 0 and (text.startswith(b"[") or b"traceEvents" in text[:bracket]):
                text = text[bracket + 1 :].strip()
            if text.startswith(b"{") and text.endswith((b"}", b"}]", b"}]}")):
                yield _decode(_one(text))
            line = file.readline(MAX_LINE_BYTES)


def _one(text: bytes) -> bytes:
    """An event without the brackets that close the list behind it."""
    for tail in (b"}]}", b"}]"):
        if text.endswith(tail) and text.count(b"]") > text.count(b"["):
            return text[: -len(tail) + 1]
    return text


def _whole(path: Path) -> Iterator[_Event]:
    if (size := path.stat().st_size) > MAX_WHOLE_BYTES:
        raise ValueError(f"{size} bytes without a line for each event are more than the {MAX_WHOLE_BYTES} read at once")
    data = path.read_bytes()
    if data.lstrip().startswith(b"["):
        yield from msgspec.json.decode(data, type=list[_Event])
    else:
        yield from msgspec.json.decode(data, type=_Whole).traceEvents
