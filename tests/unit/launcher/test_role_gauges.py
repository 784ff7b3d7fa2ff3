"""What several replicas come to in one line of metrics."""

from pathlib import Path
from typing import Any

from darts_async.launcher.role_gauges import merged
from darts_async.launcher.roles import RoleProcess


def role(kind: Any, rank: int, **gauges: float) -> RoleProcess:
    named = {name.replace("__", "/"): value for name, value in gauges.items()}
    return RoleProcess(kind, rank, Path("log"), None, gauges=named)  # type: ignore[arg-type] # nobody asks for it


def test_rates_add_up_shares_are_averaged_and_the_worst_lag_counts():
    figures = [(300.0, 0.2, 4.0), (100.0, 0.6, 9.0)]
    roles = [
        role(
            "generator", n, generator__tokens_per_s=r, generator__idle_ratio=i, loop_lag_p99_ms=lag, policy_version=3.0
        )
        for n, (r, i, lag) in enumerate(figures)
    ]
    roles.append(role("selector", 0, queue__rewards__depth=2.0, loop_lag_p99_ms=1.0))
    assert merged(roles) == {
        "generator/tokens_per_s": 400.0,
        "generator/idle_ratio": 0.4,
        "generator/loop_lag_p99_ms": 9.0,
        "queue/rewards/depth": 2.0,
        "selector/loop_lag_p99_ms": 1.0,
    }


def test_a_replica_that_says_nothing_yet_counts_for_nothing():
    roles = [role("generator", 0, generator__idle_ratio=0.25), role("generator", 1)]
    assert merged(roles) == {"generator/idle_ratio": 0.25}


def test_figures_of_several_engines():
    roles = [
        role(
            "generator",
            n,
            engine__inter_token_latency_mean_ms=mean,
            engine__kv_cache_usage_ratio=use,
            engine__hits=hits,
        )
        for n, (mean, use, hits) in enumerate([(10.0, 0.5, 3.0), (20.0, 0.25, 4.0)])
    ]
    assert merged(roles) == {
        "engine/inter_token_latency_mean_ms": 15.0,
        "engine/kv_cache_usage_ratio": 0.375,
        "engine/hits": 7.0,
    }
