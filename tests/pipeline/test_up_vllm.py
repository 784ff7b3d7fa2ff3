"""Whole runs with real vLLM: the policy trains, weights are swapped in flight, tails are cancelled in the engine."""

import json
import signal

import pytest

from darts_async.sinks.catalogue import meaning_of

pytestmark = [pytest.mark.vllm, pytest.mark.torch, pytest.mark.timeout(300)]


def test_a_few_steps_of_the_quickstart(up):
    run = up("--run.steps", "4", "--eval.prompts", "16", "--eval.every_steps", "2")
    assert run.wait(200) == 0, run.output + run.logs()
    run.assert_nothing_is_left()
    run.assert_balanced()
    summary = run.summary
    assert (summary["status"], summary["steps"], summary["policy_version"]) == ("done", 4, 4)
    assert summary["rollouts"]["trained"] == 4 * 8 * 8
    assert summary["rollouts"]["cancelled_tail"] > 0
    assert summary["tokens"]["cancelled_tail"] > 0
    assert summary["tokens_saved_estimate"] > 0
    assert 0 < summary["staleness"]["max"] <= 1  # tokens of an older version were trained on: weights moved in flight
    assert summary["weight_update_ms"]["p50"] > 0
    assert summary["cancel_latency_ms"]["p50"] < 50
    assert summary["logprob_parity"]["mean"] < 1e-4
    assert summary["logprob_parity"]["max"] < 5e-3
    first = json.loads((run.run_folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["mismatch_kl"] < 1e-3  # on policy, as every step of `sync` is
    last = json.loads((run.run_folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name for name in last if meaning_of(name)[0] is None} == {"step", "wall_s"}
    assert last["engine/generation_tokens"] >= summary["tokens"]["trained"] / 2  # a heartbeat old
    assert 0 < last["engine/inter_token_latency_mean_ms"] <= last["engine/inter_token_latency_p99_ms"] < 60_000
    assert last["engine/time_to_first_token_p99_ms"] > 0 and 0 <= last["engine/kv_cache_usage_ratio"] <= 1
    assert summary["eval"]["before"]["rollouts"] == 32
    assert summary["eval"]["after"]["policy_version"] == 4
    (during,) = summary["eval"]["during"]
    assert (during["policy_version"], during["rollouts"]) == (2, 32)  # all of version 2: others are not counted
    traced = run.traced()
    assert 2 <= traced.spans["swap"] <= 4 and traced.spans["swap_phase"] == 6 * traced.spans["swap"]
    best = json.loads((run.run_folder / "checkpoints" / "best.json").read_text())
    assert best["step"] in {2, 4}
    assert (run.run_folder / "checkpoints" / "step_4" / "model.safetensors").is_file()


@pytest.mark.long
def test_a_killed_generator_takes_its_engine_with_it(up):
    run = up("--run.steps", "1000", "--eval.prompts", "0", "--launch.max_restarts", "0")
    run.wait_for("/1000", 200)
    generator = run.role("generator")
    engines = [p for p in run.processes() if p.ppid() == generator.pid and "EngineCore" in " ".join(p.cmdline())]
    assert engines, [p.cmdline() for p in run.processes()]
    generator.send_signal(signal.SIGKILL)
    assert run.wait(20) == 1
    run.assert_nothing_is_left()
    assert "generator-0 was killed by SIGKILL" in run.output
