"""The dashboard is of the metrics that runs have, and is one that Grafana takes as far as its own checks can be had."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("write_dashboard", ROOT / "tools" / "write_dashboard.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_dashboard"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["write_dashboard"]


def test_the_file_is_up_to_date(tool):
    assert json.loads((ROOT / "configs" / "grafana.json").read_text("utf-8")) == tool.dashboard()


def test_a_metric_that_no_run_has_stops_it(tool):
    with pytest.raises(KeyError):
        tool.metric("learner/glory")


def test_panels_have_places_queries_and_ids_of_their_own(tool):
    panels = tool.dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${source}"
            assert target["expr"].count("(") == target["expr"].count(")")
            assert re.search(r'darts_async_\w+\{run=~"\$run"', target["expr"])


def test_it_shows_what_one_looks_for(tool):
    queries = " ".join(t["expr"] for panel in tool.dashboard()["panels"] for t in panel.get("targets", ()))
    for part in (
        "reward_mean", "response_length_kept", "tokens_per_second", "learner_idle_ratio", "generator_idle_ratio",
        "queue_depth", "queue_bound", "staleness_max", "cancelled_tail", "cancel_tokens_saved",
        "cancel_latency_p99_seconds", "role_restarts_total", "engine_kv_cache_usage_ratio",
    ):  # fmt: skip
        assert f"darts_async_{part}" in queries or part in queries
