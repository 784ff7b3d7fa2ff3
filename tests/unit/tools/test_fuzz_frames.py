"""A few seconds of fuzzing in every test run: the decoders, and all listening sockets of a run with their keys."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools" / "fuzz_frames.py"


@pytest.mark.timeout(110)
def test_nothing_falls_over() -> None:
    result = subprocess.run(
        [sys.executable, str(TOOL), "--smoke", "--seed", "7"], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    decoders, sockets, verdict = result.stdout.splitlines()
    assert verdict == "nothing fell over"
    assert decoders.startswith("decoders: 150,000 spoiled messages") and " 0 crashes" in decoders
    refused = re.search(r"([\d,]+) refused", decoders)
    # Most must be refused, and some must be valid all the same: else the mutations are too tame, or too wild.
    assert refused is not None and 75_000 < int(refused[1].replace(",", "")) < 150_000
    assert sockets.startswith("9 listening sockets in one process: 9,000 spoiled messages, 9,000 dropped")
