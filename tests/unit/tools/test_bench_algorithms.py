"""The benchmark of the algorithms runs, in seconds, and the naive selector beside it decides nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[3] / "tools" / "bench_algorithms.py"


def test_smoke_prints_the_table() -> None:
    result = subprocess.run(
        [sys.executable, str(BENCH), "--smoke"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.split()[:1] in (["survivor"], ["shortest"])]
    assert [row[1] for row in rows] == ["100", "100", "1,000", "1,000"]
    assert all(float(row[3].replace(",", "")) > 1_000 for row in rows)
