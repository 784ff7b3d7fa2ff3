"""What every test shares: nothing is left in shared memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

_SHARED_MEMORY = Path("/dev/shm")
_BEFORE = pytest.StashKey[set[Path]]()


def _weights() -> set[Path]:
    return set(_SHARED_MEMORY.glob("darts-async-*"))


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_BEFORE] = _weights()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Runs without a launcher (`actors.local`, a learner on its own) have nobody to remove their published weights."""
    if hasattr(session.config, "workerinput"):
        return  # one of several test processes: the others may still need theirs
    for folder in _weights() - session.config.stash[_BEFORE]:
        if not (folder / "owner").exists():
            shutil.rmtree(folder, ignore_errors=True)
