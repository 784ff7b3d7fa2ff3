"""The benchmark of the learner runs, in seconds, and compares ways that compute the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "tools" / "bench_learner.py"


@pytest.mark.long
@pytest.mark.torch
def test_smoke_prints_speed_and_memory() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCH), "--smoke"], capture_output=True, text=True, timeout=110, check=False
    )
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    differences = [float(found) for found in re.findall(r"differ by (\S+) of their largest", text)]
    assert len(differences) == 2
    assert all(difference < 1e-4 for difference in differences)
    speeds = re.findall(r"(Trainer-style|bucketed|padding-free), [^│]*│ *[\d.]+ │ *([\d,]+) │", text)
    assert len(speeds) == 10
    assert all(float(speed.replace(",", "")) > 100 for _, speed in speeds)
    ((naive,), (chunked,)) = (re.findall(rf"{way} │ *([\d,]+) │", text) for way in ("naive logits", "chunks of 8"))
    assert float(chunked.replace(",", "")) < float(naive.replace(",", "")) / 2
