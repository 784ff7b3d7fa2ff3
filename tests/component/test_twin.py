"""The real actors on virtual time: two runs leave the same files, the books balance, calibration finds what it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.twin import run_twin
from darts_async.algorithms.ledger_audit import LedgerAudit
from darts_async.config import Config, load_config, to_toml
from darts_async.config.paths import RunPaths
from darts_async.runtime.ledger_reader import LedgerReader
from darts_async.tracing.check import check_trace
from darts_async.twin.calibration import calibrate, read_run
from darts_async.twin.profile import EngineProfile, LearnerProfile, Profile, RewardProfile, Twin, WorkloadProfile

PROFILE = Profile(
    name="test",
    source="made up",
    engine=EngineProfile(
        token_s=((1, 0.004), (64, 0.012)), request_s=0.0005, abort_s=0.002, update_s=0.02, beside_learner=1.4
    ),
    learner=LearnerProfile(token_s=1e-4, call_s=0.01, step_s=0.05, publish_s=0.01),
    reward=RewardProfile(score_s=0.001),
    workload=WorkloadProfile(prompts=256, length_effect=0.5),
)


def config_of(folder: Path, preset: str, name: str, **own: str) -> Config:
    keys = {
        "run.dir": str(folder),
        "run.name": name,
        "run.steps": "6",
        "eval.prompts": "4",
        "generator.stream_interval": "8",
        **{key.replace("__", "."): value for key, value in own.items()},
    }
    config = load_config(preset, list(keys.items()))
    paths = RunPaths.of(config)
    for path in (paths.root, paths.logs, paths.ledger, paths.checkpoints):
        path.mkdir(parents=True)
    paths.resolved_config.write_text(to_toml(config), "utf-8")
    return config


def play(folder: Path, preset: str, name: str, **own: str) -> tuple[RunPaths, dict[str, Any]]:
    config = config_of(folder, preset, name, **own)
    return RunPaths.of(config), run_twin(config, Twin(PROFILE))


def audit_of(paths: RunPaths) -> LedgerAudit:
    audit = LedgerAudit()
    for record in LedgerReader(paths.ledger):
        audit.feed(record)
    audit.finish(live=False)
    return audit


@pytest.mark.parametrize(
    "preset",
    ["grpo_sync", "one_step_off", "oversample_first_finished", "tail_batching", "partial_rollout", "darts_best"],
)
def test_every_mode_runs_to_its_end_and_its_books_balance(tmp_path: Path, preset: str):
    paths, summary = play(tmp_path, preset, "run")
    assert (summary["status"], summary["steps"], summary["policy_version"]) == ("done", 6, 6)
    audit = audit_of(paths)
    assert audit.violations == [] and audit.closed
    assert audit.generated == summary["rollouts"]["generated"]
    assert sum(audit.tokens.values()) == summary["tokens"]["generated"]


def test_two_runs_leave_the_same_files(tmp_path: Path):
    first, second = (play(tmp_path / name, "darts_best", "run")[0] for name in ("a", "b"))
    for path in sorted(first.ledger.glob("*.msgpack")):
        assert path.read_bytes() == (second.ledger / path.name).read_bytes()
    assert first.metrics.read_bytes() == second.metrics.read_bytes()
    assert first.trace_json.read_bytes() == second.trace_json.read_bytes()


def test_the_trace_says_what_happened_and_changes_nothing(tmp_path: Path):
    paths, summary = play(tmp_path / "with", "darts_best", "run")
    check = check_trace(json.loads(paths.trace_json.read_bytes()))
    assert check.violations == []
    assert set(check.processes.values()) == {"allocator-0", "generator-0", "selector-0", "learner-0"}
    audit = audit_of(paths)
    trained = summary["selection"]["groups"]["trained"]
    assert (check.spans["select"], check.spans["optimiser"], check.spans["publish"]) == (trained, 6, 6)
    assert (check.spans["swap"], check.spans["evaluate"]) == (6, 2)
    events = json.loads(paths.trace_json.read_bytes())["traceEvents"]
    assert sum(event["args"]["groups"] for event in events if event.get("cat") == "forward_backward") == trained
    dispatched = [event for event in events if event.get("cat") == "dispatch"]
    evaluations = 2 * 4  # before and after, four prompts
    assert sum(event["args"]["candidates"] for event in dispatched) == audit.generated + evaluations * 2
    # Every group was sampled: its arrow has at least two ends, and ends at the learner where it was trained.
    assert check.arrows == len(dispatched)
    learner = next(pid for pid, name in check.processes.items() if name == "learner-0")
    assert sum(event["ph"] == "f" and event["pid"] == learner for event in events) == trained
    cancelled = [event["args"] for event in events if event["ph"] == "i"]
    assert 0 < len(cancelled) <= summary["rollouts"]["cancelled_tail"]
    assert sum(args["tokens"] for args in cancelled) <= summary["tokens"]["cancelled_tail"]
    # An abort takes as long as the profile says, and waits for the one before it.
    assert min(args["latency_ms"] for args in cancelled if "latency_ms" in args) == pytest.approx(2.0)
    assert {"queue/rewards/depth", "staleness/max", "running/requests"} <= check.counters

    without, _ = play(tmp_path / "without", "darts_best", "run", metrics__trace="false")
    assert not without.trace.exists() and not without.trace_json.exists()
    for path in sorted(paths.ledger.glob("*.msgpack")):
        assert path.read_bytes() == (without.ledger / path.name).read_bytes()
    assert paths.metrics.read_bytes() == without.metrics.read_bytes()


def test_another_process_leaves_the_same_ledger(tmp_path: Path):
    """Nothing hangs on hash seeds or on addresses."""
    here, _ = play(tmp_path / "here", "darts_best", "run")
    config = config_of(tmp_path / "there", "darts_best", "run")
    there = RunPaths.of(config)
    code = (
        "import sys; from test_twin import PROFILE; from actors.twin import run_twin\n"
        "from darts_async.config import load_config; from darts_async.twin.profile import Twin\n"
        "run_twin(load_config(sys.argv[1]), Twin(PROFILE))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(there.resolved_config)], cwd=Path(__file__).parent, check=True, timeout=120
    )
    for path in sorted(here.ledger.glob("*.msgpack")):
        assert path.read_bytes() == (there.ledger / path.name).read_bytes()


def test_another_seed_leaves_another_ledger(tmp_path: Path):
    first, _ = play(tmp_path / "a", "darts_best", "run")
    second, _ = play(tmp_path / "b", "darts_best", "run", run__seed="1")
    assert next(first.ledger.glob("*.msgpack")).read_bytes() != next(second.ledger.glob("*.msgpack")).read_bytes()


def test_times_add_up(tmp_path: Path):
    """In `sync` nothing overlaps, so a step is its rollout, its pass, its update and its publication."""
    paths, _ = play(tmp_path, "grpo_sync", "run", generator__max_num_seqs="64")
    lines = [json.loads(line) for line in paths.metrics.read_text("utf-8").splitlines()]
    for line in lines[1:]:
        rest = line["learner/step_s"] - line["learner/wait_s"] - line["learner/forward_backward_s"]
        assert rest == pytest.approx(PROFILE.learner.step_s + PROFILE.learner.publish_s, rel=1e-6)
        passes = PROFILE.learner.call_s + PROFILE.learner.token_s * line["learner/padded_tokens"]
        assert line["learner/forward_backward_s"] == pytest.approx(passes, rel=1e-6)
        assert line["learner/wait_s"] > line["response_length/max"] * PROFILE.engine.token_s[0][1]


def test_calibration_finds_the_profile_again(tmp_path: Path):
    """From the files of two runs on a twin: the learner exactly, the engine's curve closely."""
    runs = [
        read_run(play(tmp_path, preset, name, run__steps="12")[0].root)
        for preset, name in (("grpo_sync", "sync"), ("darts_best", "async"))
    ]
    found = calibrate(runs, "again").twin
    learner, engine = found.profile.learner, found.profile.engine
    assert learner.token_s == pytest.approx(1e-4, rel=0.02)
    assert learner.call_s == pytest.approx(0.01, rel=0.1)
    assert learner.step_s == pytest.approx(0.05, rel=0.02)
    assert learner.publish_s == pytest.approx(0.01, rel=0.02)
    assert engine.update_s == pytest.approx(0.02, rel=0.05)
    for running, seconds in engine.token_s:
        assert seconds == pytest.approx(0.004 + 0.008 * (running - 1) / 63, rel=0.25)
    assert all(not response.cancelled for group in found.groups for response in group.responses)
