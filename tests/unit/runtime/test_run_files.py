"""A run's files: a line a step as soon as both roles have reported it, and none missing at the end."""

import json

import pytest

from darts_async.config.paths import RunPaths
from darts_async.messages import EvalResult, StepMetrics
from darts_async.runtime.record import RunRecord
from darts_async.runtime.run_files import RunFiles


@pytest.fixture
def files(tmp_path):
    files = RunFiles(RunPaths(tmp_path), RunRecord())
    yield files
    files.close()


def lines_of(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_written_when_both_roles_have_reported(files, tmp_path):
    assert files.step(StepMetrics(step=0, values={"policy_version": 1.0}), {}) is None
    assert lines_of(tmp_path) == []
    values = files.step(StepMetrics(step=0, values={"reward/mean": 0.5}), {"queue/rewards/depth": 2.0})
    (line,) = lines_of(tmp_path)
    assert line == values
    assert line.pop("wall_s") >= 0
    assert line == {"step": 0, "policy_version": 1.0, "reward/mean": 0.5, "queue/rewards/depth": 2.0}


def test_who_else_wants_the_lines_gets_them_as_they_are_written(tmp_path):
    taken = []
    files = RunFiles(RunPaths(tmp_path), RunRecord(), also=lambda line: taken.append(dict(line)))
    files.step(StepMetrics(step=0, values={"policy_version": 1.0, "learner/loss": float("nan")}), {})
    files.step(StepMetrics(step=0, values={"reward/mean": 0.5}), {"queue/rewards/depth": 2.0})
    files.step(StepMetrics(step=1, values={"policy_version": 2.0}), {})
    assert taken == lines_of(tmp_path)
    files.summarise("failed", "why")  # the line that is owed
    assert taken == lines_of(tmp_path) and len(taken) == 2
    assert "learner/loss" not in taken[0]
    files.close()


def test_cancels_of_a_step_are_the_difference_of_the_run_s(files, tmp_path):
    for step, cancelled in enumerate((3.0, 10.0)):
        files.step(StepMetrics(step=step, values={"policy_version": step + 1.0}), {})
        files.step(StepMetrics(step=step, values={"cancel/rollouts": cancelled}), {})
    assert [line["cancel/rollouts_in_step"] for line in lines_of(tmp_path)] == [3.0, 7.0]


def test_what_only_one_role_reported_is_written_at_the_end_once(files, tmp_path):
    for step in range(2):
        files.step(StepMetrics(step=step, values={"policy_version": step + 1.0}), {})
    files.step(StepMetrics(step=0, values={"reward/mean": 0.5}), {})
    summary = files.summarise("failed", "why", bench={"training_s": 2.0})
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["status"], summary["reason"], summary["steps"]) == ("failed", "why", 2)
    assert summary["bench"] == {"training_s": 2.0}


def test_an_evaluation_goes_into_the_next_line_one_a_line(files, tmp_path):
    for version in (2, 4):
        files.evaluated(
            EvalResult(label="during", policy_version=version, reward=version / 10, response_length=7.0, num_rollouts=6)
        )
    files.evaluated(EvalResult(label="before", policy_version=0, reward=0.1, response_length=9.0, num_rollouts=6))
    for step in range(3):
        files.step(StepMetrics(step=step, values={"policy_version": step + 1.0}), {})
        values = files.step(StepMetrics(step=step, values={"reward/mean": 0.5}), {})
        assert values.get("eval/version") == {0: 2.0, 1: 4.0}.get(step)
    lines = lines_of(tmp_path)
    assert [line.get("eval/reward") for line in lines] == [0.2, 0.4, None]
    assert [line.get("eval/response_length") for line in lines] == [7.0, 7.0, None]
    summary = files.summarise("done")
    assert [found["policy_version"] for found in summary["eval"]["during"]] == [2, 4]
    assert (summary["eval"]["before"]["reward"], summary["eval"]["after"]) == (0.1, None)
    assert summary["ended_by"] is None


def test_a_report_that_is_repeated_counts_once(files, tmp_path):
    """A learner that was started anew cannot know whether its last report was heard."""
    learner = StepMetrics(step=0, values={"policy_version": 1.0})
    assert files.step(learner, {}) is None
    assert files.step(learner, {}) is None
    assert files.step(StepMetrics(step=0, values={"reward/mean": 0.5}), {}) is not None
    assert files.step(learner, {}) is None
    files.summarise("done")
    assert [line["step"] for line in lines_of(tmp_path)] == [0]
