"""The ablation in small: every setting runs, and the table is written between its marks."""

import subprocess
import sys
from pathlib import Path

_TOOL = Path(__file__).resolve().parents[3] / "tools" / "ablation.py"


def test_every_setting_has_a_row(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("head\n<!-- ablation: make ablation -->\nold\n<!-- end of ablation -->\ntail\n")
    small = ("--profiles", "gpu_7b", "--steps", "2", "--groups", "8", "--out", str(tmp_path / "runs"))
    command = [sys.executable, str(_TOOL), *small, "--readme", str(readme)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    text = readme.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["| setting", "`gpu_7b`", "paper |"]
    times_faster = {row[0].removeprefix("| "): float(row[1]) for row in rows[1:]}
    assert len(times_faster) == 10 and times_faster["synchronous"] == 1.0
    # All of a group of eight is generated either way; cancelling the tail can only be sooner than that.
    assert times_faster["oversample, first finished"] > 1.0
    assert text.startswith("head\n") and text.endswith("tail\n") and "old" not in text
