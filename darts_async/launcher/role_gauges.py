"""The gauges of all roles in one line of metrics: those of several replicas become one figure of the same meaning.

Invariant: with one process of each role, every gauge is that process's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from darts_async.launcher.roles import RoleProcess

__all__ = ["merged"]

_LAG: Final = "loop_lag_p99_ms"
_SHARED: Final = ("_ratio", "_mean_ms")
_WORST: Final = ("_p99_ms", "_p99_s", "/max")


def merged(roles: Iterable[RoleProcess]) -> dict[str, float]:
    """Return one value a gauge: rates and counts of replicas added up, shares (`..._ratio`) and means averaged,
    percentiles and maxima the worst."""
    found: dict[str, dict[str, list[float]]] = {}
    for role in roles:
        of_kind = found.setdefault(role.role, {})
        for name, value in role.gauges.items():
            if name == _LAG:
                of_kind.setdefault(f"{role.role}/{name}", []).append(value)
            elif "/" in name:
                of_kind.setdefault(name, []).append(value)
    return {name: _one(name, values) for of_kind in found.values() for name, values in of_kind.items()}


def _one(name: str, values: list[float]) -> float:
    if name.endswith(_SHARED):
        return sum(values) / len(values)
    return max(values) if name.endswith(_WORST) else sum(values)
