"""What every test shares: nothing is left in shared memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

_SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session", autouse=True)
def shared_memory_is_given_back() -> Iterator[None]:
    """Runs without a launcher (`actors.local`, a learner on its own) have nobody to remove their published weights."""
    before = set(_SHARED_MEMORY.glob("darts-async-*"))
    yield
    for folder in set(_SHARED_MEMORY.glob("darts-async-*")) - before:
        if not (folder / "owner").exists():
            shutil.rmtree(folder, ignore_errors=True)
