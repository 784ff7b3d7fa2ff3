"""Whole runs that are cut off and go on in their folder: killed at once, or drained; nothing skipped, nothing twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "kill_and_resume.py"


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darts_async.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.timeout(300)
def test_a_kill_of_everything_changes_nothing_that_is_trained(tmp_path):
    config = tmp_path / "stream.toml"
    config.write_text('extends = "quickstart"\n[pipeline]\nmode = "stream"\n')
    options = ("--kills", "1", "--seed", "19", "--training-s", "3", "--out", str(tmp_path / "out"), "--compare")
    overrides = ("--run.steps", "16", "--learner.lr", "0", "--checkpoint.recovery_steps", "3")
    command = [sys.executable, str(_TOOL), str(config), *overrides, *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing came of it" in result.stdout
    assert "resumes: 1" in result.stdout


OWN_SINKS = """
import json, threading
from darts_async.sinks import Sink

class Copy(Sink):
    def __init__(self, run):
        self.file = (run.root / "copy.jsonl").open("a")

    def line(self, step, values):
        self.file.write(json.dumps({"step": step, **values}) + "\\n")

    def evaluated(self, result):
        self.file.write(json.dumps({"label": result.label}) + "\\n")

    def ended(self, summary):
        self.file.write(json.dumps({"status": summary["status"]}) + "\\n")

    def close(self):
        self.file.close()

class Hangs(Sink):
    def __init__(self, run):
        threading.Event().wait()
"""


@pytest.mark.timeout(400)
def test_an_interrupted_run_goes_on_and_then_is_complete(up, tmp_path):
    (tmp_path / "own.py").write_text(OWN_SINKS)
    sinks = ["tensorboard", f"{tmp_path / 'own.py'}:Copy", f"{tmp_path / 'own.py'}:Hangs"]
    limit = ("--metrics.sinks", json.dumps(sinks), "--metrics.sink_timeout_s", "0.5")
    first = up.sim("--run.steps", "8", "--eval.every_steps", "3", *limit)
    first.wait_for("step 3/8", 200)
    first.process.send_signal(signal.SIGINT)
    assert first.wait(20) == 130, first.output
    before = first.summary
    assert before["status"] == "interrupted" and 3 <= before["steps"] < 8
    lines = (first.run_folder / "metrics.jsonl").read_text()

    missing = _cli("up", "--resume", str(tmp_path / "nowhere"))
    assert missing.returncode == 2 and "no such run folder" in missing.stderr
    both = _cli("up", "quickstart", "--resume", str(first.run_folder))
    assert both.returncode == 2 and "leave 'quickstart' out" in both.stderr

    again = up.resume("--launch.drain_timeout_s", "9")
    again.wait_for("all roles are ready", 200)
    refused = _cli("up", "--resume", str(first.run_folder))
    assert refused.returncode == 2 and "the run is alive: its launcher (process " in refused.stderr
    assert again.wait(200) == 0, again.output + again.logs()
    again.assert_nothing_is_left()
    again.assert_balanced()
    summary = again.summary
    assert (summary["status"], summary["steps"], summary["policy_version"], summary["resumes"]) == ("done", 8, 8, 1)
    assert summary["wall_s"] > before["wall_s"]
    assert summary["rollouts"]["trained"] == 8 * 8 * 8
    assert summary["rollouts"]["cancelled_shutdown"] >= before["rollouts"]["cancelled_shutdown"]
    assert [found["policy_version"] for found in summary["eval"]["during"]] == [3, 6]
    assert summary["eval"]["before"] == before["eval"]["before"]
    after = (again.run_folder / "metrics.jsonl").read_text()
    assert after.startswith(lines)
    assert [json.loads(line)["step"] for line in after.splitlines()] == list(range(8))
    copied = [json.loads(line) for line in (again.run_folder / "copy.jsonl").read_text().splitlines()]
    assert [line for line in copied if "step" in line] == [json.loads(line) for line in after.splitlines()]
    statuses = [line.get("status") or line.get("label") for line in copied if "step" not in line]
    assert [status for status in statuses if status != "during"] == ["before", "interrupted", "after", "done"]
    assert len(list((again.run_folder / "tensorboard").iterdir())) == 2
    roles = [f"{role}-0" for role in ("allocator", "generator", "selector", "learner")]
    assert set(again.traced().processes.values()) == {*roles, *(f"{role} (start 2)" for role in roles)}
    for start in (first, again):
        assert "are left behind: `Hangs`" in start.output and "Traceback" not in start.output
    assert f"the run goes on after step {before['steps']}/8" in again.output
    assert "the run goes on (resume 1)" in (again.run_folder / "logs" / "learner-0.log").read_text()
    checked = _cli("replay", str(again.run_folder), "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr

    complete = _cli("up", "--resume", str(again.run_folder))
    assert complete.returncode == 0 and "the run is complete: 8 steps" in complete.stdout
