"""The summary: which reports end up where, and that what was never measured is null."""

import json
import math

from darts_async.messages import LEDGER_STATES, EvalResult, Finished, StepMetrics
from darts_async.runtime.record import RunRecord


def test_a_step_is_merged_from_two_roles():
    record = RunRecord()
    record.add_step(StepMetrics(step=0, values={"policy_version": 1.0, "learner/loss": 0.5}))
    merged = record.add_step(StepMetrics(step=0, values={"reward/mean": 0.25}))
    assert merged == {"policy_version": 1.0, "learner/loss": 0.5, "reward/mean": 0.25}
    assert record.policy_version == 1


def test_summary_collects_the_roles_parts():
    record = RunRecord()
    for step in range(3):
        record.add_step(StepMetrics(step=step, values={"policy_version": step + 1.0}))
    record.add_eval(EvalResult(label="before", policy_version=0, reward=0.5, response_length=60.0, num_rollouts=4))
    books = {f"rollouts/{state}": float(i) for i, state in enumerate(LEDGER_STATES)}
    books |= {"kept_length/mean": 40.5, "zero_variance_groups": 4.0, "groups/trained": 6.0, "groups/rejected": 1.0}
    books |= {"rollouts/generated": 15.0, "tokens/generated": 99.0, "cancel_latency_ms/p50": 1.25}
    books |= {"failed/engine": 1.0, "failed/reward_timeout": 3.0}
    record.add_finished(Finished(role="selector", rank=0, summary=books))
    starvation = {"starvation/prompts": 2.0, "starvation/max": 5.0}
    record.add_finished(Finished(role="allocator", rank=0, summary=starvation))
    record.add_finished(Finished(role="learner", rank=0, summary={"policy_version": 3.0, "ended_by/wall_s": 1.0}))
    for rank, p99 in enumerate((5.0, 9.0)):
        summary = {"idle_ratio": 0.1 + rank / 10, "update_ms/p99": p99}
        record.add_finished(Finished(role="generator", rank=rank, summary=summary))
    summary = record.summary(status="done", wall_s=1.0)
    assert summary["steps"] == 3
    assert summary["policy_version"] == 3
    assert summary["rollouts"] == {"generated": 15, **{state: i for i, state in enumerate(LEDGER_STATES)}}
    assert summary["tokens"]["trained"] is None
    assert summary["eval"]["before"]["reward"] == 0.5
    assert summary["eval"]["after"] is None
    assert (summary["eval"]["during"], summary["ended_by"]) == ([], "wall_s")
    assert summary["idle_ratio"] == {"generator": 0.15, "learner": None}
    assert summary["weight_update_ms"] == {"p50": None, "p99": 9.0}
    assert summary["selection"] == {
        "kept_length": 40.5,
        "generated_length": None,
        "zero_variance_groups": 4,
        "groups": {"trained": 6, "rejected": 1, "stale": None},
        "starvation": {"prompts": 2, "max": 5},
    }
    assert list(summary["failures"].items()) == [("reward_timeout", 3), ("engine", 1)]
    assert summary["cancel_latency_ms"] == {"p50": 1.25, "p99": None}


def test_summary_of_nothing_is_valid_json_without_nan():
    record = RunRecord()
    record.add_finished(Finished(role="learner", rank=0, summary={"idle_ratio": math.nan}))
    text = json.dumps(record.summary(status="failed", wall_s=0.5, reason="why"), allow_nan=False)
    assert json.loads(text)["reason"] == "why"
