"""The result of a run is its `summary.json` with attributes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import darts_async
from darts_async.errors import RunFailed
from darts_async.messages import EvalResult, Finished, StepMetrics
from darts_async.runtime.record import RunRecord


def _record() -> RunRecord:
    record = RunRecord(warnings=["one thing"])
    record.add_step(StepMetrics(step=0, values={"policy_version": 1.0}))
    common = {"response_length": 40.0, "num_rollouts": 4}
    for label, version, reward in (("before", 0, 0.5), ("during", 1, 0.6), ("after", 1, 0.75)):
        record.add_eval(EvalResult(label=label, policy_version=version, reward=reward, **common))
    books = {"rollouts/generated": 96.0, "rollouts/trained": 64.0, "tokens_saved_estimate": 123.0}
    record.add_finished(Finished(role="selector", rank=0, summary=books | {"reward/first": 0.5, "reward/last": 0.75}))
    record.add_finished(Finished(role="learner", rank=0, summary={"ended_by/steps": 1.0, "staleness/max": 1.0}))
    return record


def test_attributes_are_those_of_the_summary(tmp_path: Path) -> None:
    summary = _record().summary(status="done", wall_s=12.5)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "reward/mean": 0.5}\n{"step": 1}\n')
    result = darts_async.Result.read(tmp_path)
    assert result.summary == summary
    assert (result.status, result.steps, result.policy_version, result.wall_s) == ("done", 1, 1, 12.5)
    assert (result.ended_by, result.reason, result.warnings) == ("steps", "", ["one thing"])
    assert (result.rollouts["generated"], result.rollouts["trained"], result.rollouts["stale"]) == (96, 64, None)
    assert (result.tokens_saved_estimate, result.staleness.max, result.staleness.mean) == (123, 1.0, None)
    assert result.eval.before is not None and result.eval.before.reward == 0.5
    assert result.eval.after is not None and result.eval.after.policy_version == 1
    assert [scores.reward for scores in result.eval.during] == [0.6]
    assert (result.reward.first, result.reward.last) == (0.5, 0.75)
    assert result.metrics() == [{"step": 0, "reward/mean": 0.5}, {"step": 1}]
    assert result.checkpoint is None
    (tmp_path / "checkpoints" / "step_1").mkdir(parents=True)
    assert result.checkpoint == tmp_path / "checkpoints" / "step_1"
    assert repr(result) == f"Result(done, 1 steps in 12 s, reward 0.5 -> 0.75, '{tmp_path}')"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    summary = RunRecord().summary(status="failed", wall_s=1.0, reason="learner-0 exited")
    result = darts_async.Result.of(tmp_path, summary)
    assert (result.status, result.reason) == ("failed", "learner-0 exited")
    assert (result.eval.after, result.reward.last) == (None, None)


@pytest.mark.parametrize("text", [None, "", "[]", '{"status": "done"}', '{"status": 3}'])
def test_a_folder_without_a_result_is_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunFailed, match="is not the summary of a run") as failed:
        darts_async.Result.read(tmp_path)
    assert failed.value.folder == tmp_path
