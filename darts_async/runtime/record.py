"""What a run came to: collects what the roles report and turns it into metrics lines and `summary.json`. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from darts_async.algorithms.latency_table import LatencyTable
from darts_async.algorithms.limits import ENDINGS
from darts_async.messages import LEDGER_STATES, EvalResult, Finished, Role, StepMetrics

Status = Literal["done", "failed", "interrupted"]
_SEPARATOR = "/"


@dataclass
class RunRecord:
    """The launcher's memory of a run."""

    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step to merged metrics of the roles that reported it."""
    evals: dict[str, EvalResult] = field(default_factory=dict)
    """`before` and `after`."""
    evals_during: list[EvalResult] = field(default_factory=list)
    """In order of version."""
    finished: dict[tuple[Role, int], dict[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    policy_version: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    """How often a role was started anew, by its name."""

    def add_step(self, report: StepMetrics) -> dict[str, float]:
        """Merge a role's report of a step; return all that is known of the step."""
        values = self.steps.setdefault(report.step, {})
        values.update(report.values)
        self.policy_version = max(self.policy_version, int(report.values.get("policy_version", 0)))
        return values

    def add_eval(self, result: EvalResult) -> None:
        """Keep the scores of the held-out set; of a version that was scored again, after a loss, the last ones."""
        if result.label == "during":
            others = [found for found in self.evals_during if found.policy_version != result.policy_version]
            self.evals_during = sorted([*others, result], key=lambda found: found.policy_version)
        else:
            self.evals[result.label] = result

    def add_finished(self, report: Finished) -> None:
        """Keep a role's part of the summary."""
        self.finished[report.role, report.rank] = report.summary

    def summary(self, *, status: Status, wall_s: float, reason: str = "") -> dict[str, Any]:
        """Return `summary.json` (DESIGN 4.3). Numbers that were never measured are null."""
        selector = self.finished.get(("selector", 0), {})
        learner = self.finished.get(("learner", 0), {})
        generators = [part for (role, _), part in sorted(self.finished.items()) if role == "generator"]
        result: dict[str, Any] = {
            "status": status,
            "steps": len([values for values in self.steps.values() if "policy_version" in values]),
            "policy_version": int(learner.get("policy_version", self.policy_version)),
            "wall_s": round(wall_s, 3),
            "rollouts": _ledger(selector, "rollouts"),
            "tokens": _ledger(selector, "tokens"),
            "failures": _failures(selector),
            "tokens_saved_estimate": _whole(selector.get("tokens_saved_estimate")),
            "ended_by": next((name for name in ENDINGS if f"ended_by{_SEPARATOR}{name}" in learner), None),
            "eval": {label: _eval(self.evals.get(label)) for label in ("before", "after")}
            | {"during": [_eval(result) for result in self.evals_during]},
            "reward": _sub(selector, "reward", ("first", "last")),
            "response_length": _sub(selector, "response_length", ("first", "last")),
            "idle_ratio": {
                "generator": _mean([part.get("idle_ratio") for part in generators]),
                "learner": _number(learner.get("idle_ratio")),
            },
            "cancel_latency_ms": _sub(selector, "cancel_latency_ms", ("p50", "p99")),
            "weight_update_ms": _worst(generators, "update_ms", ("p50", "p99")),
            "engine": _engine(generators),
            "staleness": _sub(learner, "staleness", ("mean", "max")),
            "logprob_parity": _sub(learner, "logprob_parity", ("mean", "max")),
            "selection": _selection(selector, self.finished.get(("allocator", 0), {})),
            "skipped_steps": _whole(learner.get("skipped_steps")),
            "restarts": self.restarts,
            "generators": {
                f"generator-{rank}": {key: _whole(part.get(key)) for key in ("trajectories", "tokens")}
                | {"idle_ratio": _number(part.get("idle_ratio"))}
                for (role, rank), part in sorted(self.finished.items())
                if role == "generator"
            },
            "warnings": self.warnings,
        }
        if reason:
            result["reason"] = reason
        return result


def _ledger(part: dict[str, float], prefix: str) -> dict[str, int | None]:
    keys = ("generated", *LEDGER_STATES)
    return {key: _whole(part.get(f"{prefix}{_SEPARATOR}{key}")) for key in keys}


def _failures(selector: dict[str, float]) -> dict[str, int]:
    """Failed candidates by reason, the most frequent first."""
    prefix = f"failed{_SEPARATOR}"
    counts = {name.removeprefix(prefix): round(v) for name, v in selector.items() if name.startswith(prefix)}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _selection(selector: dict[str, float], allocator: dict[str, float]) -> dict[str, Any]:
    """What selection came to over the run, and which prompts it never let through."""
    return {
        "kept_length": _number(selector.get("kept_length/mean")),
        "generated_length": _number(selector.get("generated_length/mean")),
        "zero_variance_groups": _whole(selector.get("zero_variance_groups")),
        "groups": {key: _whole(selector.get(f"groups/{key}")) for key in ("trained", "rejected", "stale")},
        "starvation": {key: _whole(allocator.get(f"starvation/{key}")) for key in ("prompts", "max")},
    }


def _engine(generators: list[dict[str, float]]) -> dict[str, Any]:
    """How fast the engines decoded: `token_s` has (candidates decoding, seconds per token, samples)."""
    table = LatencyTable()
    for part in generators:
        table.merge(LatencyTable.of_summary(part).points())
    points = [[_number(running), _number(seconds), samples] for running, seconds, samples in table.points()]
    return {"token_s": points, "first_output_s": _mean([part.get("first_output_s") for part in generators])}


def _sub(part: dict[str, float], prefix: str, keys: tuple[str, ...]) -> dict[str, float | None]:
    return {key: _number(part.get(f"{prefix}{_SEPARATOR}{key}")) for key in keys}


def _worst(parts: list[dict[str, float]], prefix: str, keys: tuple[str, ...]) -> dict[str, float | None]:
    """The largest of the replicas' figures: what a person waits for."""
    out: dict[str, float | None] = {}
    for key in keys:
        values = [v for v in (_number(part.get(f"{prefix}{_SEPARATOR}{key}")) for part in parts) if v is not None]
        out[key] = max(values, default=None)
    return out


def _eval(result: EvalResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "reward": _number(result.reward),
        "response_length": _number(result.response_length),
        "rollouts": result.num_rollouts,
        "policy_version": result.policy_version,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in map(_number, values) if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def _number(value: float | None) -> float | None:
    """JSON has no NaN: what is not a finite number was not measured."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value)
