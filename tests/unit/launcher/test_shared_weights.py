"""Shared memory is given back: by the run itself, or by the next one when it was killed."""

import os
import subprocess
import sys
from pathlib import Path

from darts_async.launcher import shared_weights


def test_a_dead_owners_folder_is_removed_and_a_living_ones_stays(tmp_path: Path):
    dead, living, mine = (tmp_path / f"darts-async-{name}" for name in ("dead", "living", "mine"))
    code = (
        f"from darts_async.launcher import shared_weights as s; from pathlib import Path; s.create(Path({str(dead)!r}))"
    )
    subprocess.run([sys.executable, "-c", code, str(dead)], check=True)
    assert dead.is_dir()
    shared_weights.create(living)
    assert living.is_dir()
    assert not dead.exists()
    shared_weights.create(mine)
    assert living.is_dir()
    shared_weights.remove(mine)
    assert not mine.exists()


def test_a_reused_pid_does_not_keep_a_folder(tmp_path: Path):
    old, mine = tmp_path / "darts-async-old", tmp_path / "darts-async-mine"
    old.mkdir()
    (old / "owner").write_text(f"{os.getpid()} 1")
    shared_weights.create(mine)
    assert not old.exists()


def test_what_is_not_ours_is_left_alone(tmp_path: Path):
    other = tmp_path / "darts-async-other"
    other.mkdir()
    shared_weights.create(tmp_path / "darts-async-mine")
    assert other.is_dir()
