"""What a run that nobody answers for left behind, and what `status` and `set` say of it."""

import json
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from darts_async.config import load_config, to_toml
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.launcher.run_end import RunEnd
from darts_async.launcher.status import set_live, status


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.logs.mkdir(parents=True)
    paths.resolved_config.write_text(to_toml(load_config(None)))
    return paths


def _touch(path, at_s, text=""):
    path.write_text(text)
    os.utime(path, (at_s, at_s))


def _summarise(paths, at_s, **values):
    _touch(paths.summary, at_s, json.dumps({"status": "done", "steps": 15} | values))


def test_a_complete_run(paths):
    _summarise(paths, 1000.0)
    _touch(paths.logs / "learner-0.log", 999.0)
    end = RunEnd.of(paths)
    assert (end.status, end.steps, end.at_s) == ("done", 15, 1000.0)
    assert end.text(1060.0).startswith("the run is over: done after 15 steps, at ")
    assert "(1 min 00 s ago)" in end.text(1060.0)
    assert end.as_json() == {
        "state": "over",
        "status": "done",
        "steps": 15,
        "reason": "",
        "at": "1970-01-01T00:16:40+00:00",
    }


def test_a_failed_run_says_why(paths):
    _summarise(paths, 1000.0, status="failed", reason="learner-0: RunFailed: no disk")
    assert "failed after 15 steps" in RunEnd.of(paths).text()
    assert "\nwhy: learner-0: RunFailed: no disk\n" in RunEnd.of(paths).text()


def test_a_killed_run_has_a_last_sign_of_life(paths):
    _touch(paths.logs / "learner-0.log", 500.0)
    _touch(paths.metrics, 700.0)
    end = RunEnd.of(paths)
    assert (end.status, end.at_s) == (None, 700.0)
    assert "it was killed; its last sign of life was at" in end.text(760.0)
    assert end.text(760.0).endswith(f"(1 min 00 s ago)\ngo on with it: darts-async up --resume {paths.root}")


def test_a_summary_of_an_earlier_start_is_not_the_end(paths):
    _summarise(paths, 1000.0)
    _touch(paths.logs / "learner-0.log", 2000.0)
    assert (RunEnd.of(paths).status, RunEnd.of(paths).at_s) == (None, 2000.0)


def test_nothing_at_all(paths):
    assert "it has not begun" in RunEnd.of(paths).text()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "done"}', '{"status": "done", "steps": null}'])
def test_half_a_summary_is_none(paths, text):
    _touch(paths.summary, 1000.0, text)
    assert RunEnd.of(paths).status is None


def test_status_and_set_say_so_and_exit_with_1(paths):
    _summarise(paths, time.time())
    console = Console(record=True, width=200)
    assert status(paths.root, console, as_json=False) == 1
    assert set_live(paths.root, ["queues.min_chunk=2"], console) == 1
    assert console.export_text(clear=True).count("the run is over: done after 15 steps") == 2
    assert status(paths.root, console, as_json=True) == 1
    answer = json.loads(console.export_text())
    assert (answer["state"], answer["status"], answer["steps"]) == ("over", "done", 15)
    assert "the run is over" in answer["error"]


def test_a_launcher_that_is_gone(paths, monkeypatch):
    monkeypatch.setattr("darts_async.launcher.status._ANSWER_S", 0.2)
    (paths.root / "outside").mkdir()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    pid = process.pid
    place = paths.control_file
    place.write_text(json.dumps({"endpoint": f"ipc://{paths.root}/outside/s", "pid": pid}))
    place.chmod(0o600)
    _touch(paths.metrics, time.time())
    console = Console(record=True, width=200)
    assert status(paths.root, console, as_json=False) == 1
    text = console.export_text()
    assert f"its launcher (process {pid}) is gone" in text
    assert "it was killed" in text


def test_what_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        status(tmp_path, Console(), as_json=False)
