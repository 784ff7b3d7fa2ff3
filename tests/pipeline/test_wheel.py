"""The wheel by itself, away from the checkout: nothing that a run needs was left out of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_wheel.py"


@pytest.mark.long
@pytest.mark.torch
@pytest.mark.timeout(600)
def test_a_newcomers_first_hour_works_from_the_wheel() -> None:
    done = subprocess.run([sys.executable, str(_TOOL)], capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "does it all by itself" in done.stdout
