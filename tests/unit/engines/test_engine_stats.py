"""Counts, shares and latencies of vLLM's records, by hand."""

from types import SimpleNamespace

import pytest

from darts_async.engines.engine_stats import EngineStats


def scheduled(running=0, waiting=0, skipped=0, usage=0.0, *, requests=0, queries=0, hits=0, reset=False):
    prefix = SimpleNamespace(requests=requests, queries=queries, hits=hits, reset=reset)
    return SimpleNamespace(
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_skipped_waiting_reqs=skipped,
        kv_cache_usage=usage,
        prefix_cache_stats=prefix,
    )


def iterated(prompt=0, sampled=0, preempted=0, first=(), between=(), queued=()):
    return SimpleNamespace(
        num_preempted_reqs=preempted,
        num_prompt_tokens=prompt,
        num_generation_tokens=sampled,
        time_to_first_tokens_iter=list(first),
        inter_token_latencies_iter=list(between),
        finished_requests=[SimpleNamespace(queued_time=seconds) for seconds in queued],
    )


def test_gauges_are_the_last_counters_add_up():
    stats = EngineStats()
    stats.scheduled(scheduled(3, 2, 1, 0.5, requests=2, queries=100, hits=25))
    stats.scheduled(scheduled(4, 0, 0, 0.25, requests=1, queries=100, hits=75))
    stats.scheduled(scheduled(5, 1, 0, 0.75))
    stats.iterated(iterated(100, 8, 1, first=[0.1, 0.3], queued=[0.02]))
    stats.iterated(iterated(0, 8, 0, between=[0.010] * 99 + [0.5]))
    found = stats.gauges()
    assert (found["engine/num_requests_running"], found["engine/num_requests_waiting"]) == (5, 1)
    assert found["engine/kv_cache_usage_ratio"] == 0.75
    assert found["engine/prefix_cache_hit_ratio"] == 0.5
    assert (found["engine/prefix_cache_queries"], found["engine/prefix_cache_hits"]) == (200, 100)
    assert (found["engine/prompt_tokens"], found["engine/generation_tokens"]) == (100, 16)
    assert found["engine/num_preemptions"] == 1
    assert found["engine/time_to_first_token_mean_ms"] == pytest.approx(200)
    assert found["engine/time_to_first_token_p99_ms"] == pytest.approx(300)
    assert found["engine/inter_token_latency_mean_ms"] == pytest.approx(14.9)
    assert found["engine/inter_token_latency_p99_ms"] == pytest.approx(10)
    assert found["engine/request_queue_time_p99_ms"] == pytest.approx(20)


def test_a_cache_that_was_emptied_is_not_judged_by_what_it_had():
    stats = EngineStats()
    stats.scheduled(scheduled(requests=1, queries=100, hits=100))
    stats.scheduled(scheduled(requests=1, queries=50, hits=0, reset=True))
    assert stats.gauges()["engine/prefix_cache_hit_ratio"] == 0
    assert stats.gauges()["engine/prefix_cache_hits"] == 100


def test_nothing_is_told_of_what_has_not_happened():
    assert set(EngineStats().gauges()) == {
        "engine/prefix_cache_queries",
        "engine/prefix_cache_hits",
        "engine/num_preemptions",
        "engine/prompt_tokens",
        "engine/generation_tokens",
    }


def test_memory_is_bounded():
    stats = EngineStats()
    for _ in range(100):
        stats.iterated(iterated(between=[0.01] * 128, first=[0.1] * 128))
    assert max(len(samples) for samples in stats._latencies_s.values()) == 2048
