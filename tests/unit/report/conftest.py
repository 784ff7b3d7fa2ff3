"""Run folders as runs leave them: the real writers, with numbers that a test can foretell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from darts_async.algorithms.ledger_records import (
    CandidateEnded,
    EvaluationScored,
    GroupEnded,
    GroupPlanned,
    LedgerRecord,
    RoleRestarted,
    RunClosed,
    RunOpened,
    StepTrained,
)
from darts_async.config import Config, to_toml
from darts_async.config.paths import RunPaths
from darts_async.config.rules import resolve
from darts_async.messages import ObservedLength, candidate_id
from darts_async.metrics import JsonlWriter
from darts_async.runtime.ledger_file import LedgerFile
from darts_async.runtime.record import RunRecord

NASTY = '<script>console.error("from a run")</script><img src=x onerror=alert(1)>'


class MakeRun(Protocol):
    """See `make_run`."""

    def __call__(self, name: str, steps: int = ..., *, groups: int = ..., **parts: bool) -> Path: ...


def group_records(number: int, version: int, lengths: tuple[int, ...]) -> list[LedgerRecord]:
    """A group of three: the two shorter ones are trained, the longest is cancelled one token before its end."""
    ids = tuple(candidate_id(number, index) for index in range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    records: list[LedgerRecord] = [
        GroupPlanned(
            group_id=number,
            draw=number,
            prompt_id=f"p{number}",
            rule="shortest",
            group_size=2,
            keep_longest=0,
            candidate_ids=ids,
            dispatch_version=version,
        )
    ]
    for place, index in enumerate(order):
        state = "cancelled_tail" if place == len(order) - 1 else "trained"
        tokens = lengths[index] - (state == "cancelled_tail")
        records.append(CandidateEnded(candidate_id=ids[index], state=state, tokens=tokens, reward=0.5))
    observed = tuple(ObservedLength(length, censored=False) for length in lengths)
    records.append(GroupEnded(group_id=number, outcome="trained", version=version + 1, lengths=observed))
    return records


def run_records(steps: int, groups: int = 2) -> list[LedgerRecord]:
    """A run: at version v every group has responses of 60 - v, 40 - v and 20 + 40 - v tokens, not below 3."""
    records: list[LedgerRecord] = [RunOpened(run="r", seed=0, rule="shortest")]
    records.append(EvaluationScored(label="before", version=0, reward=0.25, response_length=50.0, num_rollouts=8))
    for version in range(steps):
        numbers = range(version * groups, (version + 1) * groups)
        for number in numbers:
            base = max(3, 40 - version)
            records += group_records(number, version, (base + 20, base, base + 25))
        records.append(StepTrained(version=version + 1, group_ids=tuple(numbers)))
        if version == steps // 2:
            records.append(RoleRestarted(role="generator", rank=0, incarnation=0))
    records.append(EvaluationScored(label="after", version=steps, reward=0.75, response_length=30.0, num_rollouts=8))
    return records


def step_values(step: int) -> dict[str, float]:
    """The metrics of a step, as the roles report them."""
    return {
        "reward/mean": step / 100,
        "reward/kept": step / 100 + 0.01,
        "response_length/generated": 50.0 - step % 40,
        "response_length/kept": 45.0 - step % 40,
        "response_length/cancelled": 44.0 - step % 40,
        "generator/idle_ratio": 0.1,
        "generator/tokens_per_s": 1000.0 + step,
        "learner/idle_ratio": 0.25,
        "learner/step_s": 0.5,
        "learner/wait_s": 0.125,
        "learner/forward_backward_s": 0.25,
        "learner/publish_ms": 3.0,
        "queue/in_flight_groups/depth": float(step % 5),
        "queue/ready_groups/depth": float(step % 3),
        "queue/ready_groups/age_p99_s": 0.2,
        "staleness/mean": 0.75,
        "staleness/max": 1.0,
        "age/0/tokens": 25.0,
        "age/0/log_ratio_abs": 0.001,
        "age/1/tokens": 75.0,
        "age/1/log_ratio_abs": 0.003,
        "mismatch_kl": 1e-4,
        "policy_version": step + 1.0,
        "cancel/rollouts": 2.0 * (step + 1),
        "cancel/rollouts_in_step": 2.0,
        "cancel/latency_p99_ms": 4.0,
        "selection/zero_variance_share": 0.2,
        "reward/component/format": 0.9,
        f"reward/component/{NASTY[:40]}": 0.1,
    }


@pytest.fixture(name="group_records")
def group_records_fixture() -> Callable[[int, int, tuple[int, ...]], list[LedgerRecord]]:
    """The records of one group: its number, its version, the lengths of its candidates."""
    return group_records


@pytest.fixture
def nasty() -> str:
    """What nobody should be able to make a report run."""
    return NASTY


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make `<tmp>/<name>`; `ledger`, `summary`, `config`, `metrics`, `closed` = False leave that out."""

    def make(name: str, steps: int = 10, *, groups: int = 2, **parts: bool) -> Path:
        paths = RunPaths(tmp_path / name)
        paths.root.mkdir()
        if parts.get("config", True):
            paths.resolved_config.write_text(to_toml(resolve(Config())))
        if parts.get("metrics", True):
            writer = JsonlWriter(paths.metrics)
            for step in range(steps):
                writer.write({"step": step, "wall_s": (step + 1) * 0.5, **step_values(step)})
            writer.close()
        if parts.get("ledger", True):
            paths.ledger.mkdir()
            records = run_records(steps, groups)
            if parts.get("closed", True):
                records.append(RunClosed(rollouts={}, tokens={}, estimated=0))
            asyncio.run(_write(paths.ledger, records))
        if parts.get("summary", True):
            summary: dict[str, Any] = RunRecord().summary(status="done", wall_s=steps * 0.5)
            summary |= {"steps": steps, "warnings": [NASTY], "tokens_saved_estimate": 123}
            paths.summary.write_text(json.dumps(summary))
        return paths.root

    return make


async def _write(folder: Path, records: list[LedgerRecord]) -> None:
    file = LedgerFile.create(folder)
    for record in records:
        file.append(record)
    await file.close()
