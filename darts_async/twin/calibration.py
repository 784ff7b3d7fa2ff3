"""A profile from real runs: what `darts-async tune --calibrate RUN...` does.

Reads nothing but the runs' own files: config, `metrics.jsonl`, `summary.json`, ledger. Several runs of one machine and
policy are fitted together; two that overlap differently (one synchronous, one not) tell apart how fast each side is and
how much it suffers beside the other. Lengths and rewards are those of the runs with the fewest cancelled candidates.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from darts_async.algorithms.latency_table import LatencyTable
from darts_async.algorithms.ledger_records import CandidateEnded, GroupPlanned
from darts_async.config import Config, load_config
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.messages import group_of
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.twin.fits import LinearCost, fit_cost, rising
from darts_async.twin.latency import LatencyCurve
from darts_async.twin.profile import EngineProfile, LearnerProfile, Profile, RewardProfile, Twin, WorkloadProfile
from darts_async.twin.recorded import RecordedGroup, RecordedResponse

__all__ = ["Calibration", "RunData", "calibrate", "read_run"]

_MIN_SAMPLES: Final = 3
_FACTORS: Final = tuple(1.0 + 0.025 * number for number in range(81))
_MIN_SPREAD: Final = 0.1
"""Of the shares of two runs: with less, a factor cannot be told from the rest."""
_Points: TypeAlias = Sequence[tuple[float, float, int]]
_WARM_UP: Final = 1
"""Steps that are left out: the first one pays for what is only done once."""


@dataclass(frozen=True, slots=True)
class RunData:
    """A finished run's files."""

    config: Config
    steps: list[dict[str, float]]
    """Lines of `metrics.jsonl`, in order."""
    summary: dict[str, Any]
    groups: list[RecordedGroup]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A twin, and how it was fitted."""

    twin: Twin
    learner: LinearCost
    engine_factor: float
    notes: list[str]
    """What could not be told from these runs, for a person."""


def read_run(folder: Path) -> RunData:
    """Read a run folder. Raises `ConfigError` for one that has not ended well or lacks what is needed."""
    paths = RunPaths(folder)
    try:
        summary = json.loads(paths.summary.read_text("utf-8"))
        lines = [json.loads(line) for line in paths.metrics.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        fix = "Name the folder of a run that has ended (runs/NAME)."
        raise ConfigError("--calibrate", str(folder), f"is not a finished run: {error}", fix) from error
    if summary.get("status") != "done" or len(lines) < _WARM_UP + 3:
        rule = (
            f"ended as {summary.get('status')!r} after {len(lines)} steps; four steps of a run that is done are needed"
        )
        raise ConfigError("--calibrate", str(folder), rule, "Run it again to its end.")
    if not summary.get("engine", {}).get("token_s") or "learner/calls" not in lines[-1]:
        fix = "Run it again with this version of darts-async."
        raise ConfigError("--calibrate", str(folder), "lacks figures that a calibration needs", fix)
    config = load_config(str(paths.resolved_config))
    return RunData(config, lines, summary, list(_groups(paths.ledger)))


def calibrate(runs: Sequence[RunData], name: str) -> Calibration:
    """Fit a profile. Raises `ConfigError` when the runs are of different policies or engines."""
    _check_alike(runs)
    notes: list[str] = []
    learner = _fit_learner(runs)
    curve, factor = _fit_engine(runs)
    if len(runs) == 1:
        notes.append("one run: it cannot say how much the engine suffers beside the learner; add one of another mode")
    best = min(runs, key=_cancelled_share)
    if (cancelled := _cancelled_share(best)) > 0:
        notes.append(f"{cancelled:.0%} of the candidates were cancelled: their lengths are resampled from longer ones")
    groups = tuple(best.groups)
    source = f"calibrated from {', '.join(run.config.run.name for run in runs)}"
    profile = Profile(
        name=name,
        source=source,
        engine=EngineProfile(
            token_s=tuple(curve),
            beside_learner=factor,
            start_s=_fit_start(runs),
            abort_s=_median([_ms(run.summary["cancel_latency_ms"]["p50"]) for run in runs]),
            update_s=_median([_ms(run.summary["weight_update_ms"]["p50"]) for run in runs]),
        ),
        learner=LearnerProfile(
            token_s=learner.token_s,
            call_s=learner.call_s,
            step_s=_fit_step(runs),
            publish_s=_median([_ms(line.get("learner/publish_ms")) for run in runs for line in run.steps[_WARM_UP:]]),
            beside_generator=learner.factor,
        ),
        reward=RewardProfile(),
        workload=WorkloadProfile(prompt_tokens=_prompt_tokens(best)),
    )
    return Calibration(Twin(profile, groups), learner, factor, notes)


def _check_alike(runs: Sequence[RunData]) -> None:
    first = runs[0].config
    for run in runs[1:]:
        for key, of in (
            ("model.path", run.config.model.path),
            ("generator.engine", run.config.generator.engine),
            ("generator.stream_interval", run.config.generator.stream_interval),
        ):
            section, _, field = key.partition(".")
            if of != getattr(getattr(first, section), field):
                raise ConfigError("--calibrate", of, f"the runs differ in {key}", "Calibrate with runs of one set-up.")


def _groups(folder: Path) -> Iterator[RecordedGroup]:
    versions: dict[int, int] = {}
    responses: defaultdict[int, list[RecordedResponse]] = defaultdict(list)
    for record in LedgerReader(folder):
        if isinstance(record, GroupPlanned):
            versions[record.group_id] = record.dispatch_version
        elif isinstance(record, CandidateEnded) and record.tokens:
            if record.state in {"trained", "rejected", "stale"}:
                response = RecordedResponse(record.tokens, record.reward or 0.0)
            elif record.state == "cancelled_tail":
                response = RecordedResponse(record.tokens, 0.0, cancelled=True)
            else:
                continue
            responses[group_of(record.candidate_id)].append(response)
    for group_id, version in versions.items():
        if responses[group_id]:
            yield RecordedGroup(version, tuple(responses[group_id]))


def _fit_learner(runs: Sequence[RunData]) -> LinearCost:
    calls, tokens, seconds, beside = [], [], [], []
    for run in runs:
        for line, decoding in _with_engine_share(run):
            computing = _learner_share(line)
            calls.append(line["learner/calls"])
            tokens.append(line["learner/padded_tokens"])
            seconds.append(line["learner/forward_backward_s"])
            beside.append(_overlap(decoding, computing) / max(computing, 1e-9))
    return fit_cost(calls, tokens, seconds, beside)


def _fit_step(runs: Sequence[RunData]) -> float:
    """What a step takes beyond waiting, computing and publishing."""
    rest = [
        line["learner/step_s"]
        - line["learner/wait_s"]
        - line["learner/forward_backward_s"]
        - _ms(line.get("learner/publish_ms"))
        for run in runs
        for line in run.steps[_WARM_UP:]
    ]
    return max(0.0, _median(rest))


def _fit_engine(runs: Sequence[RunData]) -> tuple[list[tuple[float, float]], float]:
    """Return the latency curve without the learner's company, and how much slower it is in it.

    Every run has measured `curve * (1 + (factor - 1) * share)` with a share of its own: the factor is the one under
    which the runs agree best about the curve. One run alone says nothing about it.
    """
    tables = [_table(run) for run in runs]
    shares = [_engine_beside(run) for run in runs]
    factors = _FACTORS if max(shares) - min(shares) >= _MIN_SPREAD else (1.0,)
    factor = min(factors, key=lambda factor: _disagreement(tables, shares, factor))
    joined = LatencyTable()
    for table, share in zip(tables, shares, strict=True):
        slow = 1.0 + (factor - 1.0) * share
        joined.merge((running, seconds / slow, samples) for running, seconds, samples in table)
    points = [point for point in joined.points() if point[2] >= _MIN_SAMPLES] or joined.points()
    return rising(points), factor


def _disagreement(tables: Sequence[_Points], shares: Sequence[float], factor: float) -> float:
    """Weighted mean of squared differences of log-latencies between runs, at concurrencies that several have seen."""
    curves = [
        LatencyCurve([(running, seconds / (1.0 + (factor - 1.0) * share)) for running, seconds, _ in table], 4096)
        for table, share in zip(tables, shares, strict=True)
    ]
    squares = weights = 0.0
    for one, (curve, table) in enumerate(zip(curves, tables, strict=True)):
        low, high = table[0][0], table[-1][0]
        for other in range(len(tables)):
            for running, _, samples in tables[other] if other != one else ():
                if low <= running <= high:
                    number = round(running)
                    squares += samples * math.log(curves[other].at(number) / curve.at(number)) ** 2
                    weights += samples
    return squares / weights if weights else 0.0


def _table(run: RunData) -> list[tuple[float, float, int]]:
    return [
        (float(running), float(seconds), int(samples)) for running, seconds, samples in run.summary["engine"]["token_s"]
    ]


def _engine_beside(run: RunData) -> float:
    """Share of the time in which the engine decoded that the learner was at work in."""
    overlap = decoded = 0.0
    for line, decoding in _with_engine_share(run):
        overlap += line["learner/step_s"] * _overlap(decoding, _learner_share(line))
        decoded += line["learner/step_s"] * decoding
    return overlap / max(decoded, 1e-9)


def _overlap(decoding: float, computing: float) -> float:
    """Share of a step in which both were at work, from the share of each: what cannot be otherwise. Exact where one of
    them is never idle, and where they take turns."""
    return max(0.0, decoding + computing - 1.0)


def _fit_start(runs: Sequence[RunData]) -> float:
    """From a request to its first decode step: the time to the first output, less the tokens in it.

    Reading the prompts of others is in the latencies already: they were measured between outputs, prefill included.
    """
    costs = []
    for run in runs:
        first_s = run.summary["engine"].get("first_output_s")
        if first_s is not None:
            costs.append(max(0.0, first_s - run.config.generator.stream_interval * _mean_latency(run)))
    return _median(costs)


def _mean_latency(run: RunData) -> float:
    points = run.summary["engine"]["token_s"]
    samples = sum(n for _, _, n in points)
    return float(sum(s * n for _, s, n in points) / samples)


def _with_engine_share(run: RunData) -> Iterator[tuple[Mapping[str, float], float]]:
    """Each step's line with the share of the step in which the engine decoded (its idle ratio is of the whole run)."""
    busy_before = wall_before = 0.0
    for number, line in enumerate(run.steps):
        wall = line["wall_s"]
        busy = wall * (1.0 - line.get("generator/idle_ratio", 0.0))
        share = (busy - busy_before) / max(wall - wall_before, 1e-9)
        busy_before, wall_before = busy, wall
        if number >= _WARM_UP:
            yield line, min(1.0, max(0.0, share))


def _learner_share(line: Mapping[str, float]) -> float:
    step_s = max(line["learner/step_s"], 1e-9)
    return min(1.0, max(0.0, 1.0 - line["learner/wait_s"] / step_s))


def _prompt_tokens(run: RunData) -> int:
    """Mean length of a prompt: what the learner read beyond the responses."""
    per_step = run.config.group.groups_per_step * run.config.group.size
    extra = [(line["learner/padded_tokens"] - line["learner/tokens"]) / per_step for line in run.steps]
    return max(1, round(_median(extra)))


def _cancelled_share(run: RunData) -> float:
    responses = [response for group in run.groups for response in group.responses]
    return sum(response.cancelled for response in responses) / max(len(responses), 1)


def _ms(value: float | None) -> float:
    return 0.0 if value is None or not math.isfinite(value) else value / 1e3


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
