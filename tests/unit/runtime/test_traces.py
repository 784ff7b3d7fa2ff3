"""When a run's `trace.json` is written, and that nothing about it can fail a run."""

import json
import os
from pathlib import Path

from darts_async.config import Config, load_config
from darts_async.config.paths import RunPaths
from darts_async.runtime.traces import finish_trace, open_trace, refresh_trace
from darts_async.tracing import trace_of


def config_of(folder: Path, trace: str = "true") -> Config:
    own = {"run.dir": str(folder), "run.name": "run", "metrics.trace": trace, "metrics.trace_mib": "1"}
    return load_config("quickstart", list(own.items()))


def record(config: Config) -> None:
    file = open_trace(config, "learner-0")
    assert file is not None
    trace_of(file, "learner-0", file.start).close()
    file.close()


def processes(paths: RunPaths) -> int:
    events = json.loads(paths.trace_json.read_bytes())["traceEvents"]
    return sum(event["name"] == "process_name" for event in events)


def test_where_no_trace_is_wanted_nothing_is_written(tmp_path: Path):
    assert open_trace(config_of(tmp_path, "false"), "learner-0") is None
    assert finish_trace(tmp_path / "run") == ""
    refresh_trace(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_run_goes_on_without(tmp_path: Path):
    (tmp_path / "run").write_text("a file in the place of the run's folder")
    assert open_trace(config_of(tmp_path), "learner-0") is None


def test_what_hinders_the_last_step_is_said(tmp_path: Path):
    config = config_of(tmp_path)
    record(config)
    paths = RunPaths.of(config)
    paths.trace_json.mkdir()
    assert "trace.json was not written" in finish_trace(paths.root)
    refresh_trace(paths.root)
    paths.trace_json.rmdir()
    assert finish_trace(paths.root) == ""
    assert processes(paths) == 1


def test_it_is_made_again_when_there_is_more(tmp_path: Path):
    config = config_of(tmp_path)
    paths = RunPaths.of(config)
    record(config)
    refresh_trace(paths.root)
    before = paths.trace_json.stat().st_mtime_ns
    refresh_trace(paths.root)
    assert paths.trace_json.stat().st_mtime_ns == before
    record(config)
    os.utime(paths.trace / "learner-0-1.jsonl", ns=(before + 10**9, before + 10**9))
    refresh_trace(paths.root)
    assert processes(paths) == 2
