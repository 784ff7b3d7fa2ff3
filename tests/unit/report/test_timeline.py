"""The stretch that is shown, out of a trace in either form, or out of the metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darts_async.report.gather import gather_run
from darts_async.report.step_lines import read_steps
from darts_async.report.timeline import Span, Timeline, choose_stretch, from_metrics, overlap
from darts_async.report.trace_stretch import MAX_SPANS, read_trace

EVENTS = [
    {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "generator-0"}},
    {"ph": "M", "name": "process_name", "pid": 2, "args": {"name": "learner-0"}},
    {"ph": "X", "name": "decode [x]", "cat": "decode", "pid": 1, "tid": 1, "ts": 1e6, "dur": 5e5},
    {"ph": "X", "name": "fb", "cat": "forward_backward", "pid": 2, "ts": 1.2e6, "dur": 1e5, "args": {"groups": [1]}},
    {"ph": "i", "name": "cancel", "cat": "cancel", "pid": 1, "ts": 1.25e6, "s": "t"},
    {"ph": "s", "name": "group", "cat": "group", "id": 3, "pid": 1, "ts": 1.2e6},
    {"ph": "X", "name": "late", "cat": "decode", "pid": 1, "ts": 9e6, "dur": 1.0},
]
SPANS = [
    Span("generator-0", "decode", 1.0, 0.5),
    Span("learner-0", "forward_backward", 1.2, 0.1),
    Span("generator-0", "cancel", 1.25, 0.0),
]
FORMS = {
    "one line": json.dumps({"traceEvents": EVENTS}),
    "a line an event": '{"traceEvents": [\n' + ",\n".join(map(json.dumps, EVENTS)) + "\n]}\n",
    "brackets beside events": '{"traceEvents":[' + ",\n".join(map(json.dumps, EVENTS)) + "]}",
    "an array": json.dumps(EVENTS),
    "cut off": '{"traceEvents": [\n' + ",\n".join(map(json.dumps, EVENTS)) + ',\n{"ph": "X", "na',
}


@pytest.mark.parametrize("form", FORMS)
def test_a_trace_in_every_form(tmp_path: Path, form: str):
    path = tmp_path / "trace.json"
    path.write_text(FORMS[form])
    found = read_trace(path, (1.1, 2.0))
    assert (found.source, found.spans, found.roles) == ("trace", SPANS, ["generator-0", "learner-0"])


def test_ages_follow_the_arrows_of_each_group(tmp_path: Path):
    names = ("allocator-0", "generator-0", "selector-0", "learner-0")
    events = [{"ph": "M", "name": "process_name", "pid": n, "args": {"name": name}} for n, name in enumerate(names)]

    def arrow(ph: str, group: int, pid: int, at_s: float) -> None:
        events.append({"ph": ph, "id": group, "pid": pid, "ts": at_s * 1e6, "name": "group", "cat": "group"})

    arrow("s", 1, 0, 0.0)
    arrow("s", 2, 0, 0.01)
    arrow("s", 3, 0, 0.02)  # of an evaluation: it ends at the generator
    arrow("f", 3, 1, 0.03)
    arrow("t", 1, 2, 0.05)
    arrow("t", 2, 2, 0.07)
    arrow("f", 1, 3, 0.10)
    arrow("f", 2, 3, 0.20)
    events.append({"ph": "X", "cat": "decode", "pid": 1, "ts": 0, "dur": 1e5})
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    (point,) = read_trace(path, (0.0, 1.0)).ages
    assert point == pytest.approx((0.125, (0.05 + 0.06) / 2, (0.05 + 0.13) / 2, 0.13))


def test_the_overlap_of_decoding_and_training():
    spans = [
        Span("generator-0", "decode", 0.0, 2.0),
        Span("generator-1", "decode", 1.0, 2.0),
        Span("learner-0", "forward_backward", 2.5, 1.0),
        Span("learner-0", "optimiser", 3.5, 2.0),
    ]
    assert overlap(Timeline("trace", 0.0, 5.0, spans)) == pytest.approx((0.6, 0.5, 0.1))
    assert overlap(Timeline("metrics", 0.0, 5.0, spans)) is None


def test_a_trace_of_a_long_run_is_bounded(tmp_path: Path):
    path = tmp_path / "trace.json"
    events = [{"ph": "X", "name": "d", "cat": "decode", "pid": 1, "ts": n, "dur": 1} for n in range(MAX_SPANS + 7)]
    path.write_text("[\n" + ",\n".join(map(json.dumps, events)) + "\n]")
    found = read_trace(path, (0.0, 1.0))
    assert (len(found.spans), found.num_left_out, found.stop_s) == (MAX_SPANS, 0, (MAX_SPANS - 1) / 1e6)
    path.write_text("[\n" + ",\n".join(map(json.dumps, reversed(events))) + "\n]")
    assert read_trace(path, (0.0, 1.0)).num_left_out == 7


def test_a_pause_is_not_what_is_shown(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    times = [step + 1.0 + 500.0 * (step >= 10) for step in range(20)]
    path.write_text("".join(json.dumps({"step": step, "wall_s": at}) + "\n" for step, at in enumerate(times)))
    start, stop = choose_stretch(read_steps(path))
    assert stop - start == 8.0


def test_without_a_trace_the_metrics_say_how_steps_were_spent(make_run):
    folder = make_run("plain", 20)
    series = read_steps(folder / "metrics.jsonl")
    stretch = choose_stretch(series)
    assert stretch == (3.0, 7.0)  # steps of half a second: 8 of them around the middle
    found = from_metrics(series, stretch)
    learner = [span for span in found.spans if span.role == "learner"]
    assert len(learner) == 3 * 8
    assert learner[:3] == [
        Span("learner", "waiting", 3.0, 0.125),
        Span("learner", "forward_backward", 3.125, 0.25),
        Span("learner", "optimiser", 3.375, 0.125),
    ]
    assert sum(span.category == "cancel" for span in found.spans) == 8


def test_a_trace_that_cannot_be_read_is_named_and_the_metrics_take_its_place(make_run):
    folder = make_run("torn", 20)
    (folder / "trace.json").write_text("no JSON")
    run = gather_run(folder)
    assert run.timeline.source == "metrics"
    assert any("trace.json" in text for text in run.missing)
