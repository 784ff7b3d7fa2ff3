"""What vLLM's engine says of itself, step by step, as a handful of gauges. Pure: reads vLLM's records by attribute.

Names are vLLM's own, under `engine/`; units as everywhere here. Counters are of this start of the engine. Latencies are
of the last requests and tokens, not of the whole run: that is what one looks at a live engine for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any, Final

from darts_async.metrics import percentile

__all__ = ["EngineStats"]

_REQUESTS: Final = 256
_TOKENS: Final = 2048
"""Samples that a latency is taken over: sorting them once a second takes 0.4 ms."""


class EngineStats:
    """Of one engine."""

    def __init__(self) -> None:
        self._now: dict[str, float] = {}
        self._counts = dict.fromkeys(
            ("prefix_cache_queries", "prefix_cache_hits", "num_preemptions", "prompt_tokens", "generation_tokens"), 0
        )
        self._prefixes: deque[tuple[int, int]] = deque(maxlen=_REQUESTS)
        """Of the last steps that looked prompts up: tokens, and those found."""
        self._latencies_s: dict[str, deque[float]] = {
            "time_to_first_token": deque(maxlen=_REQUESTS),
            "inter_token_latency": deque(maxlen=_TOKENS),
            "request_queue_time": deque(maxlen=_REQUESTS),
        }

    def scheduled(self, stats: Any) -> None:
        """A step of the scheduler: vLLM's `SchedulerStats`."""
        self._now = {
            "num_requests_running": float(stats.num_running_reqs),
            "num_requests_waiting": float(stats.num_waiting_reqs + stats.num_skipped_waiting_reqs),
            "kv_cache_usage_ratio": float(stats.kv_cache_usage),
        }
        prefix = stats.prefix_cache_stats
        if prefix is None:
            return
        if prefix.reset:
            self._prefixes.clear()
        if prefix.requests:
            self._counts["prefix_cache_queries"] += prefix.queries
            self._counts["prefix_cache_hits"] += prefix.hits
            self._prefixes.append((prefix.queries, prefix.hits))

    def iterated(self, stats: Any) -> None:
        """What came out of a step: vLLM's `IterationStats`."""
        counts, latencies_s = self._counts, self._latencies_s
        counts["num_preemptions"] += stats.num_preempted_reqs
        counts["prompt_tokens"] += stats.num_prompt_tokens
        counts["generation_tokens"] += stats.num_generation_tokens
        latencies_s["time_to_first_token"].extend(stats.time_to_first_tokens_iter)
        latencies_s["inter_token_latency"].extend(stats.inter_token_latencies_iter)
        latencies_s["request_queue_time"].extend(request.queued_time for request in stats.finished_requests)

    def gauges(self) -> dict[str, float]:
        """By metric name; latencies and shares of nothing are left out."""
        values = {**self._now, **{name: float(count) for name, count in self._counts.items()}}
        if looked_up := sum(queries for queries, _ in self._prefixes):
            values["prefix_cache_hit_ratio"] = sum(hits for _, hits in self._prefixes) / looked_up
        for name, samples_s in self._latencies_s.items():
            if samples_s:
                values[f"{name}_mean_ms"] = 1e3 * _mean(samples_s)
                values[f"{name}_p99_ms"] = 1e3 * percentile(tuple(samples_s), 99)
        return {f"engine/{name}": value for name, value in values.items()}


def _mean(samples: Collection[float]) -> float:
    return sum(samples) / len(samples)
