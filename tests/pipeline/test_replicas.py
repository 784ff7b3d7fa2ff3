"""Runs with several generators: all serve, and a lone survivor goes on while the other waits for its restart."""

import json
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.torch


def test_three_replicas_one_killed_all_serve_and_the_books_balance(up):
    run = up.sim("--run.steps", "12", "--generator.replicas", "3", "--launch.restart_backoff_s", "0.1")
    run.wait_for("step  1/12")
    run.role("generator", rank=1).send_signal(signal.SIGKILL)
    assert run.wait(120) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    run.assert_balanced()
    summary = run.summary
    assert (summary["status"], summary["policy_version"], summary["restarts"]) == ("done", 12, {"generator-1": 1})
    assert summary["selection"]["groups"]["trained"] == 12 * 8
    assert summary["rollouts"]["failed"] == summary["failures"].get("generator_lost", 0)
    served = {name: part["trajectories"] for name, part in summary["generators"].items()}
    assert served.keys() == {"generator-0", "generator-1", "generator-2"}
    assert min(served.values()) > 0, served  # of generator-1: by its second start
    command = [sys.executable, "-m", "darts_async.cli", "replay", str(run.run_folder), "--check"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


@pytest.mark.long
def test_a_lone_survivor_goes_on_while_the_other_is_in_back_off(up):
    run = up.sim("--run.steps", "6", "--generator.replicas", "2", "--launch.restart_backoff_s", "600")
    run.wait_for("step 1/6")
    run.role("generator", rank=0).send_signal(signal.SIGKILL)
    assert run.wait(120) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    run.assert_balanced()
    summary = run.summary
    assert (summary["status"], summary["policy_version"]) == ("done", 6)
    assert summary["selection"]["groups"]["trained"] == 6 * 8
    # Nothing waited for the other one, whose minute was not over when the run was done.
    assert "restart 1 of 3 in 60 s" in run.output and "generator-0 is back" not in run.output
    assert summary["generators"].keys() == {"generator-1"}
    lines = [json.loads(line) for line in (run.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(6))
