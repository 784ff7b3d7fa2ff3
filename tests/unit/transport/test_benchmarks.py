"""The benchmarks run, in their short form, and print figures that are not nonsense."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[3] / "tools"


def smoke(script: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", TOOLS / script, "--smoke"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=TOOLS.parent,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def rate(line: str) -> int:
    found = re.search(r"([\d,]+) messages/s", line)
    assert found, line
    return int(found[1].replace(",", ""))


def test_the_codec_beats_lists() -> None:
    ours, msgspec_lists, msgpack_lists = map(rate, smoke("bench_codec.py").splitlines()[1:])
    assert ours > 2 * max(msgspec_lists, msgpack_lists)


def test_every_way_over_the_link_gets_its_messages_through() -> None:
    lines = smoke("bench_links.py").splitlines()
    rates = [rate(line) for line in lines if "messages/s" in line]
    assert len(rates) == 10 and min(rates) > 20
    assert sum(line.lstrip().startswith("CURVE") for line in lines) == 2
    delays = re.search(r"p50 (\d+) us, p99 (\d+) us", lines[-1])
    assert delays and 0 < int(delays[1]) <= int(delays[2])
