"""The benchmark of token streaming runs, and both ways that it times give the same log-probs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

BENCH = Path(__file__).resolve().parents[3] / "tools" / "bench_token_streaming.py"


def test_smoke_makes_the_table() -> None:
    spec = importlib.util.spec_from_file_location("bench_token_streaming", BENCH)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    _, *rows = bench.token_streaming_rows(smoke=True)
    assert [row[:2] for row in rows] == [("survivor", "128"), ("all", "128")]
    for row in rows:
        without_ms, with_ms, _, difference = map(float, row[3:])
        assert without_ms > 0 and with_ms > 0 and difference < 1e-4
