"""`bench --twin`, `tune` and `tune --calibrate` as commands: what they print, write and refuse."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from darts_async.config import load_config
from darts_async.twin.profile import (
    EngineProfile,
    LearnerProfile,
    Profile,
    Twin,
    WorkloadProfile,
    read_twin,
    write_twin,
)

PROFILE = Profile(
    name="small",
    source="made up for a test",
    engine=EngineProfile(token_s=((1, 0.004), (64, 0.012)), request_s=0.0005, abort_s=0.002, update_s=0.02),
    learner=LearnerProfile(token_s=1e-4, call_s=0.01, step_s=0.05, publish_s=0.01),
    workload=WorkloadProfile(prompts=256),
)
FAST = ("--generator.stream_interval", "16")


@pytest.fixture
def profile(tmp_path: Path) -> str:
    write_twin(Twin(PROFILE), tmp_path / "small.toml")
    return str(tmp_path / "small.toml")


def darts(folder: Path, *words: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "darts_async.cli", *words]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_a_table_a_profile_and_a_search(tmp_path: Path, profile: str):
    """One after the other, because the later ones need what the earlier ones leave."""
    words = ("--presets", "grpo_sync,darts_best", "--seeds", "1", "--steps", "8", "--eval-prompts", "0")
    shown = darts(tmp_path, "bench", "--twin", profile, *words, "--out", "table", *FAST)
    assert re.search(r"\| `grpo_sync` \| 1 \|.*100% \|", shown) and "made up for a test" in shown
    again = darts(tmp_path, "bench", "--twin", profile, *words, "--out", "table", *FAST)
    assert "2 of 2 cells are done already" in again

    runs = ("--calibrate", "table/grpo_sync-seed0", "--calibrate", "table/darts_best-seed0")
    shown = darts(tmp_path, "tune", *runs, "--name", "again", "--out", "profiles")
    assert "predicted and measured" in shown
    found = read_twin(str(tmp_path / "profiles" / "again.toml"))
    assert found.profile.learner.token_s == pytest.approx(1e-4, rel=0.05) and len(found.groups) == 64
    errors = msgspec.json.decode((tmp_path / "profiles" / "again.errors.json").read_bytes())
    assert [label for label, _, _ in errors] == ["grpo_sync-seed0", "darts_best-seed0"]

    search = ("--twin", "profiles/again.toml", "--trials", "5", "--steps", "3", "--out", "tuned")
    shown = darts(tmp_path, "tune", "darts_best", *search, *FAST)
    assert "recommended:" in shown and "because it is" in shown
    with (tmp_path / "tuned" / "trials.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["trial"] for row in rows] == [str(number) for number in range(5)]
    assert float(rows[0]["tokens_per_s"]) > 0 and rows[0]["queues.in_flight_groups"] == ""
    assert (tmp_path / "tuned" / "front.png").read_bytes().startswith(b"\x89PNG")
    tuned = load_config(str(tmp_path / "tuned" / "tuned.toml"))
    assert tuned.run.name == "" and tuned.generator.stream_interval == 16


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, profile: str):
    assert "is no profile" in darts(tmp_path, "tune", "--twin", "gpu_8b", status=2)
    assert "is no knob" in darts(tmp_path, "tune", "--twin", profile, "--knobs", "depth", status=2)
    assert "say --live" in darts(tmp_path, "bench", status=2)
    assert "is not a finished run" in darts(tmp_path, "tune", "--calibrate", "nowhere", status=2)
    (tmp_path / "broken.toml").write_text("name = 'x'\n", "utf-8")
    assert "is not a profile" in darts(tmp_path, "tune", "--twin", "broken.toml", status=2)
    assert "is fixed by" in darts(tmp_path, "tune", "grpo_sync", "--twin", profile, status=2)
    assert not (tmp_path / "runs").exists()
