"""Who did what when, in a stretch of the run short enough to be seen: from `trace.json`, else guessed from the metrics.

The trace is read once, event by event, and only the stretch's spans are kept, at most `MAX_SPANS`; a trace that is not
written one event a line is read whole if it is small, and refused if it is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from darts_async.report.step_lines import StepSeries

__all__ = ["Span", "Timeline", "choose_stretch", "from_metrics", "overlap", "read_trace", "role_order"]

MAX_SPANS: Final = 4000
STEPS_SHOWN: Final = 8
"""Learner steps in a stretch."""
_COARSE: Final = frozenset({"state", "compute", "group"})
"""Categories that lie around the others."""
MAX_WHOLE_BYTES: Final = 32 << 20
MAX_LINE_BYTES: Final = 1 << 20
MAX_ROLES: Final = 64
_MICRO: Final = 1e6


class Span(NamedTuple):
    """Something that took time, or (`duration_s` 0) happened at a moment."""

    role: str
    category: str
    start_s: float
    duration_s: float


@dataclass(slots=True)
class Timeline:
    """A stretch of a run."""

    source: str = ""
    """`trace` or `metrics`; empty: there is nothing to show."""
    start_s: float = 0.0
    stop_s: float = 0.0
    spans: list[Span] = field(default_factory=list)
    """By start."""
    num_left_out: int = 0
    """Spans of the stretch beyond `MAX_SPANS`."""
    roles: list[str] = field(default_factory=list)
    problem: str = ""
    """Why the trace was not used."""


class _Event(msgspec.Struct):
    """Chrome's trace event, as far as it matters here."""

    ph: str = ""
    name: str = ""
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0
    pid: int | str = 0
    args: dict[str, Any] = {}


class _Whole(msgspec.Struct):
    traceEvents: list[_Event] = []  # noqa: N815 - Chrome's name


_decode: Final = msgspec.json.Decoder(_Event).decode


def choose_stretch(series: StepSeries, steps: int = STEPS_SHOWN) -> tuple[float, float] | None:
    """Seconds from and to: so many steps in the middle of the run, where it has settled. None without a step."""
    if not series.num_steps:
        return None
    ends = np.concatenate(([0.0], series.wall_s))
    points = max(1, round(steps / series.steps_per_point))
    middle = len(series.wall_s) // 2
    first = max(0, min(middle - points // 2, len(series.wall_s) - points))
    start, stop = float(ends[first]), float(ends[min(first + points, len(series.wall_s))])
    if series.steps_per_point > steps:
        stop = start + (stop - start) * steps / series.steps_per_point
    return (start, stop) if stop > start else None


def read_trace(path: Path, stretch: tuple[float, float] | None) -> Timeline:
    """Read a trace's stretch; None: its first half minute. Raises `OSError`."""
    start_s, stop_s = stretch or (0.0, 30.0)
    timeline = Timeline("trace", start_s, stop_s)
    names: dict[int | str, str] = {}
    found: list[tuple[int | str, _Event]] = []
    try:
        for event in _events(path):
            if event.ph == "M" and event.name == "process_name" and len(names) < MAX_ROLES:
                names[event.pid] = str(event.args.get("name", ""))[:100]
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
    timeline.spans = _tidied(_span(names.get(pid) or f"process {pid}", event) for pid, event in found)
    timeline.roles = sorted({span.role for span in timeline.spans}, key=role_order)
    if not timeline.spans:
        return Timeline(problem=timeline.problem or "trace.json has no span in the stretch that is shown")
    return timeline


def from_metrics(series: StepSeries, stretch: tuple[float, float] | None) -> Timeline:
    """The learner's steps, divided into their parts; how busy generators were; cancels at the end of each step."""
    if stretch is None or series.steps_per_point > 1:
        return Timeline()
    start_s, stop_s = stretch
    timeline = Timeline("metrics", start_s, stop_s, roles=["generators", "learner"])

    def value(name: str, index: int) -> float:
        column = series.column(name)
        found = 0.0 if column is None else float(column[index])
        return found if math.isfinite(found) else 0.0

    for index, end in enumerate(series.wall_s.tolist()):
        begin = end - value("learner/step_s", index)
        if not start_s < end <= stop_s:
            continue
        wait_s, compute_s = value("learner/wait_s", index), value("learner/forward_backward_s", index)
        rest_s = max(0.0, end - begin - wait_s - compute_s)
        at = begin
        for category, seconds in (("waiting", wait_s), ("forward_backward", compute_s), ("optimiser", rest_s)):
            if seconds > 0:
                timeline.spans.append(Span("learner", category, at, seconds))
            at += seconds
        idle = series.column("generator/idle_ratio")
        if idle is not None and math.isfinite(idle[index]):
            busy_s = (end - begin) * max(0.0, 1.0 - float(idle[index]))
            timeline.spans.append(Span("generators", "decode", begin, busy_s))
        if value("cancel/rollouts_in_step", index) > 0:
            timeline.spans.append(Span("generators", "cancel", end, 0.0))
    return timeline if timeline.spans else Timeline()


def role_order(name: str) -> tuple[int, str]:
    """Roles in the order in which work passes through them."""
    order = ("allocator", "generator", "selector", "learner")
    return next((number for number, role in enumerate(order) if name.startswith(role)), len(order)), name


def overlap(timeline: Timeline) -> tuple[float, float, float] | None:
    """Shares of the stretch in which some generator decoded, the learner computed, and both at once; None: unknown."""
    decoding = _union(timeline, {"decode", "prefill"})
    computing = _union(timeline, {"forward_backward", "optimiser"})
    whole = timeline.stop_s - timeline.start_s
    if timeline.source != "trace" or timeline.num_left_out or not (decoding and computing) or whole <= 0:
        return None
    both = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in decoding for b in computing)
    first, second = (sum(stop - start for start, stop in busy) for busy in (decoding, computing))
    return first / whole, second / whole, both / whole


def _union(timeline: Timeline, categories: set[str]) -> list[tuple[float, float]]:
    """When at least one span of these lasted, within the stretch; ascending and apart."""
    found: list[tuple[float, float]] = []
    for span in timeline.spans:
        start = max(span.start_s, timeline.start_s)
        stop = min(span.start_s + span.duration_s, timeline.stop_s)
        if span.category not in categories or stop <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


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
