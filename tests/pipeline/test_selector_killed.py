"""A whole run whose selector is killed twice in the middle of it: nothing that was trained is lost or trained twice."""

import json
import signal
import subprocess
import sys

import pytest

from darts_async.algorithms.ledger_records import GroupEnded, GroupPlanned, RunReopened
from darts_async.runtime.ledger_reader import LedgerReader

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]


def test_a_killed_selector_is_replaced(up):
    run = up.sim("--run.steps", "8", "--launch.restart_backoff_s", "0.1")
    for step in (2, 5):
        run.wait_for(f"step {step}/8", 150)
        run.role("selector").send_signal(signal.SIGKILL)
    assert run.wait(150) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    run.assert_balanced()
    summary = run.summary
    assert (summary["status"], summary["steps"], summary["policy_version"]) == ("done", 8, 8)
    assert summary["restarts"] == {"selector-0": 2}
    assert summary["rollouts"]["trained"] == 8 * 8 * 8
    lines = [json.loads(line) for line in (run.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(8))
    command = [sys.executable, "-m", "darts_async.cli", "replay", str(run.run_folder), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    records = list(LedgerReader(run.run_folder / "ledger", live=False))
    assert sum(isinstance(record, RunReopened) for record in records) == 2
    draws = {record.group_id: record.draw for record in records if isinstance(record, GroupPlanned)}
    trained = [draws[r.group_id] for r in records if isinstance(r, GroupEnded) and r.outcome == "trained"]
    assert len(set(trained)) == len(trained) == 8 * 8
