"""The writer by the machine's clock: what is on disk when, and that a disk cannot hold a role up."""

import os
import threading
import time
from pathlib import Path

import pytest

from darts_async.tracing import OFF, RoleTrace, TraceFile, current, record_as, trace_of
from darts_async.tracing import trace_file as module
from darts_async.tracing.level import Level
from darts_async.tracing.records import DECODER, FileOpened, ProcessStarted, Span

LIMIT = 1 << 20


def records(folder: Path) -> list[object]:
    return [DECODER.decode(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def test_what_is_recorded_is_on_disk_soon_and_all_of_it_at_the_end(tmp_path: Path):
    file = TraceFile(tmp_path, "learner-0", limit_bytes=LIMIT)
    role = RoleTrace(file, "learner-0")
    role.lane("x").span("x", "first", time.monotonic())
    deadline = time.monotonic() + 10
    while len(records(tmp_path)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    role.lane("x").span("x", "second", time.monotonic())
    role.state("works")
    role.close()
    file.close()
    head, start, first, second, state = records(tmp_path)
    assert isinstance(head, FileOpened) and abs(head.wall_s - time.time()) < 60
    assert isinstance(start, ProcessStarted) and start.pid == os.getpid()
    assert [first.name, second.name, state.name] == ["first", "second", "works"]
    assert not [thread for thread in threading.enumerate() if thread.name == "trace"]


def test_a_disk_that_fails_ends_the_trace_and_nothing_else(tmp_path: Path):
    file = TraceFile(tmp_path, "learner-0", limit_bytes=LIMIT)
    role = RoleTrace(file, "learner-0")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file._descriptor)
    os.close(full)
    file.flush()
    assert "No space left" in role.take_warning()
    assert role.take_warning() == ""
    role.lane("x").span("x", "not recorded", time.monotonic())
    file.close()


def test_a_disk_that_hangs_costs_records_not_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MOST_BUFFERED", 100)
    file = TraceFile(tmp_path, "learner-0", limit_bytes=LIMIT)
    with file._writing:  # as long as a write lasts
        lane = RoleTrace(file, "learner-0").lane("x")
        for _ in range(150):
            lane.span("x", "x", time.monotonic())
        assert len(file._records) == 100
    file.close()
    found = records(tmp_path)
    assert sum(isinstance(record, Span) for record in found) == 98
    assert found[-1].text == "52 records are missing here: the disk was too slow"


def test_without_a_trace_every_call_does_nothing(tmp_path: Path):
    assert current() is OFF and trace_of(None, "learner-0") is OFF
    assert not OFF.is_on
    lane = OFF.lane("x")
    lane.span("x", "x", 0.0, flows=[(1, 0.0)])
    lane.passes("x", 1, 0.0)
    lane.instant("x", "x", tokens=1)
    OFF.state("x")
    OFF.gauges({"queue/a": 1.0})
    OFF.counters({"queue/a": 1.0})
    OFF.counter("x", 1.0)
    Level(OFF, "decode", "running").change(+1)
    OFF.close()
    assert OFF.take_warning() == ""
    assert list(tmp_path.iterdir()) == []


async def test_each_role_of_a_process_records_as_itself(tmp_path: Path):
    import asyncio
    from contextvars import copy_context

    file = TraceFile(tmp_path, "roles", limit_bytes=LIMIT)
    seen = {}

    async def role(name: str) -> None:
        async def inner() -> None:
            seen[name] = current()

        await asyncio.create_task(inner())

    traces = {name: RoleTrace(file, name) for name in ("selector-0", "learner-0")}
    for name, trace in traces.items():
        context = copy_context()
        context.run(record_as, trace)
        await asyncio.create_task(role(name), context=context)
    file.close()
    assert seen == traces
    assert current() is OFF
