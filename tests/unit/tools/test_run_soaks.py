"""The soaks in seconds: each for real, in its own process, with its result and its row; and Ctrl-C in one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools" / "run_soaks.py"
README = "before\n<!-- soak table: make soak -->\nold\n<!-- end of soak table -->\nbehind\n"


def soak(folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    """Run these soaks; return their results by name."""
    readme = folder / "README.md"
    readme.write_text(README)
    only = [word for name in names for word in ("--only", name)]
    command = [sys.executable, str(TOOL), "--quick", *only, "--out", str(folder), "--readme", str(readme)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    head, *lines, tail = readme.read_text().splitlines()
    assert (head, tail) == ("before", "behind")
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert len(rows) == sum(len(result["rows"]) for result in results.values())
    assert all(
        f"| {row['times']:,} | {row['outcome']} |" in "".join(rows) for r in results.values() for row in r["rows"]
    )
    return results


def test_rewards_that_hang_raise_die_or_are_no_numbers_cost_their_candidate_alone(tmp_path: Path) -> None:
    figures = soak(tmp_path, "rewards")["rewards"]["figures"]
    faults = figures["faults"]
    # The responses, and with them the faults, are the simulated engine's: the same every time, but for how many
    # candidates replace those that failed.
    assert figures["rewards"] >= 120 and min(faults[kind] for kind in ("hang", "raise", "die", "nan")) >= 2
    assert figures["scored"] == figures["rewards"] - sum(faults.values())
    assert figures["failures_in_metrics"]["failed/reward_timeout"] == faults["hang"]
    assert figures["worker_restarts"] >= faults["hang"] + faults["die"] - 4  # not who fell in the last call of all
    assert figures["groups_trained"] == 15


@pytest.mark.torch
@pytest.mark.timeout(300)
def test_a_learner_that_stands_still_stops_the_others(tmp_path: Path) -> None:
    result = soak(tmp_path, "slow-learner")["slow-learner"]
    figures, (row,) = result["figures"], result["rows"]
    assert 0 < figures["paused_s"] < 5
    # 16 groups may live at eta 1 and 8 groups a step; all of them wait for the learner.
    assert figures["queues"]["live_groups"] == {"deepest": 16, "bound": 16}
    assert all(queue["deepest"] <= queue["bound"] for queue in figures["queues"].values())
    assert all(link["most"] <= link["bound"] for link in figures["link_bytes"].values())
    assert 0 < row["median_s"] == row["worst_s"]


@pytest.mark.torch
@pytest.mark.timeout(300)
def test_a_run_comes_through_a_kill_and_a_stop(tmp_path: Path) -> None:
    found = soak(tmp_path, "chaos")["chaos"]
    assert {row["fault"]: row["times"] for row in found["rows"]} == {
        "generator: SIGKILL (simulated engine)": 1,
        "selector: SIGSTOP for 1 s (simulated engine)": 1,
    }
    assert all(0 < row["median_s"] == row["worst_s"] for row in found["rows"])
    assert (found["figures"]["steps"], found["figures"]["violations"]) == (60, [])


def test_ctrl_c_ends_the_soak_and_all_that_it_has_started(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    tag = f"soak-{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, str(TOOL), "--quick", "--only", "chaos", "--out", str(tmp_path), "--readme", str(readme)]
    with subprocess.Popen(command, env={**os.environ, "TAG": tag}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "starting generator-0" in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
        assert process.wait(90) == 130, said
    assert "interrupted in chaos" in said
    assert readme.read_text() == README
    assert not [found for found in psutil.process_iter() if _tag_of(found) == tag]


def _tag_of(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get("TAG")
    except (psutil.Error, ProcessLookupError):
        return None


def test_a_readme_without_a_place_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no place\n")
    command = [sys.executable, str(TOOL), "--quick", "--out", str(tmp_path), "--readme", str(tmp_path / "README.md")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no place for the table" in done.stderr
