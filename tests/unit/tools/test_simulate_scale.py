"""The simulation of many engines: its smoke says what every role costs."""

import re
import subprocess
import sys
from pathlib import Path

_TOOL = Path(__file__).resolve().parents[3] / "tools" / "simulate_scale.py"


def test_smoke_meters_every_role():
    result = subprocess.run(
        [sys.executable, str(_TOOL), "--smoke"], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "4 replicas x 16 = 64 candidates" in result.stdout
    for role in ("allocator", "selector", "learner", "generator"):
        row = re.search(rf"^{role}.*?([\d,]+) +([\d.]+) +([\d.]+)%", result.stdout, re.MULTILINE)
        assert row is not None and int(row[1].replace(",", "")) > 0, result.stdout
