"""A whole run whose learner is killed in the middle of it: it reaches its last version, and the books balance."""

import json
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.torch


def test_a_killed_learner_takes_the_run_up(up):
    run = up.sim("--run.steps", "8", "--checkpoint.recovery_steps", "2", "--launch.restart_backoff_s", "0.1")
    run.wait_for("step 3/8")
    run.role("learner").send_signal(signal.SIGKILL)
    assert run.wait(150) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    run.assert_balanced()
    summary = run.summary
    assert (summary["status"], summary["steps"], summary["policy_version"]) == ("done", 8, 8)
    assert summary["rollouts"]["trained"] == 8 * 8 * 8 and summary["rollouts"]["stale"] == 0
    assert summary["staleness"]["max"] <= 1
    lines = [json.loads(line) for line in (run.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(8))
    assert all({"learner/loss", "reward/mean"} <= set(line) for line in lines)
    traced = run.traced()
    assert set(traced.processes.values()) >= {"learner-0", "learner-0 (start 2)", "generator-0"}
    assert traced.spans["optimiser"] >= 8
    log = (run.run_folder / "logs" / "learner-0.log").read_text()
    assert log.count("taking up version") == 1
    command = [sys.executable, "-m", "darts_async.cli", "replay", str(run.run_folder), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (run.run_folder / "checkpoints" / "step_8" / "model.safetensors").is_file()
    assert not (run.run_folder / "recovery").exists()
