"""Which faults a run is given, on whom, in which order and with what gaps: a pure function of a seed.

Times are gaps, not instants: how long a run takes to recover is not known beforehand, and the next fault's gap counts
from there, so that at most one fault is under way (with `overlap`, from the start of the one before).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from darts_async.errors import ConfigError

__all__ = ["ROLES", "ChaosPlan", "Fault", "FaultKind", "make_schedule", "role_names"]

FaultKind: TypeAlias = Literal["kill", "stop", "delay"]

ROLES: Final = ("generator", "selector", "allocator", "learner")
_KINDS: Final[tuple[FaultKind, ...]] = ("kill", "stop", "delay")
_GAP_SPREAD: Final = 0.5
"""A gap is drawn from `gap_s` times 1 - this to 1 + this."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    kind: FaultKind
    """`kill`: SIGKILL. `stop`: SIGSTOP, and SIGCONT later. `delay`: stopped and continued many times a second."""
    target: str
    """Name of the role's process: `generator-1`."""
    gap_s: float
    """From the recovery of the fault before (or its start, when faults may overlap) to this one."""
    lasts_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """What is asked for. Roles are named `generator` (a replica is drawn), `generator-1`, or `all`."""

    kill: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    delay: tuple[str, ...] = ()
    kills: int = 1
    """Of each role that `kill` names."""
    stops: int = 1
    """Of each role that `stop` names."""
    delays: int = 1
    """Of each role that `delay` names."""
    stop_s: float = 5.0
    delay_s: float = 5.0
    gap_s: float = 2.0
    seed: int = 0
    overlap: bool = False
    """Whether a fault may come before the run has recovered from the one before."""


def make_schedule(plan: ChaosPlan, replicas: int) -> list[Fault]:
    """Return the faults in order; the same for the same arguments. Raises `ConfigError` for a role that is none."""
    rng = random.Random(plan.seed)  # noqa: S311 - a schedule, not a secret
    wanted: list[tuple[FaultKind, tuple[str, ...]]] = []
    for kind, named, times in zip(
        _KINDS, (plan.kill, plan.stop, plan.delay), (plan.kills, plan.stops, plan.delays), strict=True
    ):
        for role in _expanded(named):
            wanted += [(kind, role_names(role, replicas, f"--{kind}"))] * times
    rng.shuffle(wanted)
    lasts = {"kill": 0.0, "stop": plan.stop_s, "delay": plan.delay_s}
    return [
        Fault(
            kind=kind,
            target=rng.choice(names),
            gap_s=plan.gap_s * rng.uniform(1 - _GAP_SPREAD, 1 + _GAP_SPREAD),
            lasts_s=lasts[kind],
        )
        for kind, names in wanted
    ]


def role_names(role: str, replicas: int, key: str) -> tuple[str, ...]:
    """The processes that a word of the command line stands for. Raises `ConfigError` when there is none."""
    names = {"generator": tuple(f"generator-{rank}" for rank in range(replicas))}
    names |= {one: (f"{one}-0",) for one in ROLES if one != "generator"}
    if role in names:
        return names[role]
    if any(role in of_role for of_role in names.values()):
        return (role,)
    known = [*names, *(f"generator-{rank}" for rank in range(min(replicas, 3))), "all"]
    raise ConfigError(key, role, "names no role of this run", f"Known: {', '.join(known)}.")


def _expanded(named: Sequence[str]) -> list[str]:
    """`all` written out; every role once, in order."""
    return list(dict.fromkeys(role for name in named for role in (ROLES if name == "all" else (name,))))
