"""Rewrite `configs/grafana.json`, a dashboard for Grafana over what a run tells Prometheus.

Every query names a metric of the catalogue, and a name that is not there stops this. `--check` writes nothing and fails
when the file is out of date. Import it in Grafana (Dashboards, New, Import) and choose the Prometheus data source.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darts_async.sinks.catalogue import CATALOGUE
from darts_async.sinks.prometheus_names import PREFIX, family_of

_FILE = Path(__file__).resolve().parent.parent / "configs" / "grafana.json"
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT = 8, 7
_RATE = "[$__rate_interval]"


@dataclass
class Panel:
    """A chart: lines of PromQL with their legends."""

    title: str
    unit: str
    lines: list[tuple[str, str]]
    about: str = ""
    most: float | None = None
    kind: str = "timeseries"
    steps: list[tuple[str, float | None]] = field(default_factory=lambda: [("green", None)])


def metric(name: str, **labels: str) -> str:
    """A metric of the catalogue as Prometheus has it, of the runs that are chosen. Raises `KeyError`."""
    pattern = name
    if name not in CATALOGUE:
        raise KeyError(name)
    for label in labels:
        if f"<{label}>" in pattern:
            pattern = pattern.replace(f"<{label}>", "x")
    return _select(family_of(pattern).name, labels)


def own(name: str, **labels: str) -> str:
    """A metric of the launcher's."""
    return _select(PREFIX + name, labels)


def _select(name: str, labels: dict[str, str]) -> str:
    chosen = ['run=~"$run"', *(f'{label}=~"{value}"' for label, value in labels.items() if value)]
    return f"{name}{{{', '.join(chosen)}}}"


def rows() -> dict[str, list[Panel]]:
    """The dashboard's rows."""
    tokens = metric("tokens/<state>", state="")
    cancelled = metric("tokens/<state>", state="cancelled_tail")
    depths = f"sum by (run, queue) ({metric('queue/<queue>/depth', queue='')})"
    return {
        "Run": [
            Panel("Steps done", "none", [(own("run_steps_done"), "{{run}}")], kind="stat"),
            Panel(
                "Roles that are up",
                "none",
                [(own("role_up"), "{{run}} {{role}}-{{rank}}")],
                "1: ready, and its process there",
                most=1,
                kind="stat",
                steps=[("red", None), ("green", 1)],
            ),
            Panel("Last sign of life", "s", [(own("role_heartbeat_age_seconds"), "{{role}}-{{rank}}")], "One a second"),
        ],
        "Learning": [
            Panel(
                "Reward",
                "none",
                [
                    (metric("reward/mean"), "{{run}} finished"),
                    (metric("reward/kept"), "{{run}} kept"),
                    (metric("eval/reward"), "{{run}} held out"),
                ],
            ),
            Panel(
                "Reward components",
                "none",
                [(metric("reward/component/<component>", component=""), "{{run}} {{component}}")],
                "Means over the finished candidates of a step",
            ),
            Panel(
                "Response length",
                "none",
                [
                    (metric("response_length/generated"), "{{run}} generated"),
                    (metric("response_length/kept"), "{{run}} kept"),
                    (metric("response_length/max"), "{{run}} longest"),
                    (metric("eval/response_length"), "{{run}} held out"),
                ],
                "Tokens",
            ),
            Panel(
                "Loss and gradient",
                "none",
                [(metric("learner/loss"), "{{run}} loss"), (metric("learner/grad_norm"), "{{run}} gradient norm")],
            ),
            Panel(
                "Staleness",
                "none",
                [(metric("staleness/mean"), "{{run}} mean"), (metric("staleness/max"), "{{run}} max")],
                "Versions between a token and the policy that trained on it",
            ),
            Panel(
                "Engine against learner", "sci", [(metric("mismatch_kl"), "{{run}} KL")], "0 but for rounding, or stale"
            ),
        ],
        "Throughput": [
            Panel(
                "Tokens decoded", "none", [(metric("generator/tokens_per_s"), "{{run}} {{rank}}")], "Tokens a second"
            ),
            Panel(
                "Idle",
                "percentunit",
                [
                    (metric("generator/idle_ratio"), "{{run}} generator-{{rank}}"),
                    (metric("learner/idle_ratio"), "{{run}} learner"),
                ],
                "Share of the time in which nothing decoded, in which the learner waited",
                most=1,
            ),
            Panel(
                "Learner step",
                "s",
                [
                    (metric("learner/step_s"), "{{run}} step"),
                    (metric("learner/wait_s"), "{{run}} waiting"),
                    (metric("learner/forward_backward_s"), "{{run}} forward and backward"),
                ],
            ),
            Panel(
                "Queues, full",
                "percentunit",
                [
                    (
                        f"{depths} / max by (run, queue) ({own('queue_bound')})",
                        "{{run}} {{queue}}",
                    )
                ],
                "Depth over bound, both ends of a link together",
                most=1,
            ),
            Panel(
                "Queues, depth",
                "none",
                [(depths, "{{run}} {{queue}}")],
            ),
            Panel("Event loops, late", "s", [(metric("loop_lag_p99_ms"), "{{role}}-{{rank}}")], "99th percentile"),
        ],
        "Selection and cancels": [
            Panel(
                "Cancelled share",
                "percentunit",
                [
                    (
                        f"sum by (run) (rate({cancelled}{_RATE})) / sum by (run) (rate({tokens}{_RATE}))",
                        "{{run}} of tokens",
                    )
                ],
                "Of the tokens whose fate is decided",
                most=1,
            ),
            Panel(
                "Tokens by fate", "none", [(f"sum by (state) (rate({tokens}{_RATE}))", "{{state}}")], "Tokens a second"
            ),
            Panel(
                "Tokens saved",
                "none",
                [(metric("cancel/tokens_saved"), "{{run}}")],
                "What cancelled candidates would still have cost, an estimate",
            ),
            Panel("Cancel latency", "s", [(metric("cancel/latency_p99_ms"), "{{run}} p99")]),
            Panel(
                "Groups without signal",
                "percentunit",
                [(metric("selection/zero_variance_share"), "{{run}} one reward")],
                most=1,
            ),
            Panel(
                "Candidates sampled",
                "none",
                [
                    (
                        f"sum by (run, candidates) ({metric('candidates/<candidates>', candidates='')})",
                        "{{run}} {{candidates}}",
                    )
                ],
                "Groups of a step by how many candidates were sampled",
            ),
        ],
        "Engine": [
            Panel(
                "Requests",
                "none",
                [
                    (metric("engine/num_requests_running"), "{{run}}-{{rank}} running"),
                    (metric("engine/num_requests_waiting"), "{{run}}-{{rank}} waiting"),
                ],
            ),
            Panel(
                "Caches",
                "percentunit",
                [
                    (metric("engine/kv_cache_usage_ratio"), "{{run}}-{{rank}} KV cache in use"),
                    (metric("engine/prefix_cache_hit_ratio"), "{{run}}-{{rank}} prefix found"),
                ],
                most=1,
            ),
            Panel(
                "Latencies",
                "s",
                [
                    (metric("engine/time_to_first_token_p99_ms"), "{{run}}-{{rank}} first token p99"),
                    (metric("engine/inter_token_latency_mean_ms"), "{{run}}-{{rank}} next token mean"),
                    (metric("engine/request_queue_time_p99_ms"), "{{run}}-{{rank}} in the queue p99"),
                ],
            ),
            Panel(
                "Prompt and sampled tokens",
                "none",
                [
                    (f"rate({metric('engine/prompt_tokens')}{_RATE})", "{{run}}-{{rank}} prompt"),
                    (f"rate({metric('engine/generation_tokens')}{_RATE})", "{{run}}-{{rank}} sampled"),
                ],
                "Tokens a second",
            ),
            Panel(
                "Preemptions", "none", [(f"increase({metric('engine/num_preemptions')}{_RATE})", "{{run}}-{{rank}}")]
            ),
        ],
        "Trouble": [
            Panel("Restarts", "none", [(own("role_restarts_total"), "{{run}} {{role}}-{{rank}}")]),
            Panel(
                "Failed candidates",
                "none",
                [(f"sum by (run, reason) ({metric('failed/<reason>', reason='')})", "{{run}} {{reason}}")],
            ),
            Panel(
                "Refused, skipped, lost",
                "none",
                [
                    (f"sum by (run) ({metric('link/<link>/dropped_frames', link='')})", "{{run}} messages refused"),
                    (metric("learner/skipped_steps"), "{{run}} updates skipped"),
                    (metric("sink/<sink>/lost_lines", sink=""), "{{run}} lines lost at {{sink}}"),
                ],
            ),
        ],
    }


def dashboard() -> dict[str, Any]:
    """The whole document."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in rows().items():
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []})
        top += 1
        for index, panel in enumerate(row):
            place = {"x": index % 3 * _WIDTH, "y": top + index // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(panel, place))
        top += -(-len(row) // 3) * _HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": "darts-async",
        "uid": "darts-async",
        "description": "Runs of darts-async that Prometheus scrapes (metrics.prometheus).",
        "tags": ["darts-async", "reinforcement learning"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "timezone": "",
        "fiscalYearStartMonth": 0,
        "time": {"from": "now-30m", "to": "now"},
        "timepicker": {},
        "links": [],
        "annotations": {"list": []},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    runs = f"label_values({PREFIX}run_steps, run)"
    return [
        {"type": "datasource", "name": "source", "label": "Prometheus", "query": "prometheus", "hide": 0},
        {
            "type": "query",
            "name": "run",
            "label": "Run",
            "datasource": _SOURCE,
            "query": {"query": runs, "refId": "runs"},
            "refresh": 2,
            "sort": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "hide": 0,
        },
    ]


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for color, value in panel.steps]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0} if panel.most is not None else {"unit": panel.unit}
    if panel.most is not None:
        defaults["max"] = panel.most
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    targets = [
        {"datasource": _SOURCE, "expr": query, "legendFormat": legend, "refId": chr(ord("A") + number), "range": True}
        for number, (query, legend) in enumerate(panel.lines)
    ]
    if panel.kind == "timeseries":
        defaults["custom"] = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 5, "showPoints": "auto"}
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "none"},
        }
    else:
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "value_and_name",
            "justifyMode": "auto",
            "orientation": "auto",
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def main() -> int:
    """Rewrite or check the file; return the exit status."""
    wanted = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        if not _FILE.is_file() or _FILE.read_text("utf-8") != wanted:
            print(f"{_FILE} is out of date: run tools/write_dashboard.py")
            return 1
        return 0
    _FILE.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
