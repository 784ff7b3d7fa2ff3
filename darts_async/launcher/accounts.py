"""What the roles last said of themselves, as the launcher remembers it: states, queues, and who waits for whom.

Ages go on counting after a role's last word, and a role that has gone silent is said to be: nobody's old account
passes for a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from darts_async.algorithms.staleness import eta_of
from darts_async.algorithms.wait_graph import Explanation, explain
from darts_async.config import Config
from darts_async.launcher.roles import RoleProcess
from darts_async.messages import Heartbeat, Wait
from darts_async.runtime.outside_link import QueueLine, RoleLine

__all__ = ["Accounts", "queue_bounds"]

_SILENT_S: Final = 2.5
"""A heartbeat is due every second; on a machine with more processes than cores it may be late by another one."""

_SHOWN: Final = frozenset(
    {
        "generator/tokens_per_s",
        "generator/running",
        "selector/live_groups",
        "allocator/live_groups",
    }
)
"""Gauges that go with a role's line; nobody outside needs them all."""


@dataclass
class _Account:
    incarnation: int = -1
    state: str = ""
    since_s: float = 0.0
    heard_s: float | None = None
    waits: tuple[Wait, ...] = ()
    busy_since_s: dict[str, float] = field(default_factory=dict)
    """Of its queues that are not empty, by gauge."""


class Accounts:
    """By name of the role. Times are handed in (monotonic)."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def heard(self, role: RoleProcess, message: Heartbeat, now_s: float) -> None:
        """A role's latest account."""
        account = self._of(role, now_s)
        account.heard_s, account.waits = now_s, message.waits
        for name, depth in message.gauges.items():
            if not (name.startswith("queue/") and name.endswith("/depth")) or depth <= 0:
                account.busy_since_s.pop(name, None)
            else:
                account.busy_since_s.setdefault(name, now_s)

    def explain(self, roles: Iterable[RoleProcess], now_s: float) -> Explanation:
        """Who waits for whom."""
        roles = list(roles)
        unready = next((role.name for role in roles if not role.ready and not role.finished), "")
        return explain({role.name: self._waits(role, unready, now_s) for role in roles})

    def role_lines(self, roles: Iterable[RoleProcess], now_s: float) -> tuple[RoleLine, ...]:
        """One for each role."""
        lines = []
        for role in roles:
            account = self._of(role, now_s)
            lines.append(
                RoleLine(
                    name=role.name,
                    state=role.state[:256],
                    state_s=now_s - account.since_s,
                    pid=role.process.pid,
                    restarts=role.incarnation,
                    idle_ratio=role.gauges.get(f"{role.role}/idle_ratio"),
                    heard_s=None if account.heard_s is None else now_s - account.heard_s,
                    gauges={name: value for name, value in role.gauges.items() if name in _SHOWN},
                )
            )
        return tuple(lines)

    def queue_lines(self, roles: Iterable[RoleProcess], config: Config, now_s: float) -> tuple[QueueLine, ...]:
        """One for each queue that somebody tells of. Two ends of a link tell of one queue: what waits at either."""
        depths: dict[str, float] = {}
        since: dict[str, float] = {}
        for role in roles:
            account = self._of(role, now_s)
            for gauge in role.gauges:
                if gauge.startswith("queue/") and gauge.endswith("/depth"):
                    name = gauge.split("/")[1]
                    depths[name] = depths.get(name, 0.0) + role.gauges[gauge]
                    since[name] = min(since.get(name, now_s), account.busy_since_s.get(gauge, now_s))
        return tuple(
            QueueLine(name=name, depth=depths[name], bound=bound, busy_s=now_s - since[name])
            for name, bound in queue_bounds(config).items()
            if name in depths
        )

    def _of(self, role: RoleProcess, now_s: float) -> _Account:
        account = self._accounts.get(role.name)
        if account is None or account.incarnation != role.incarnation:
            account = self._accounts[role.name] = _Account(incarnation=role.incarnation)
        if account.state != role.state:
            account.state, account.since_s = role.state, now_s
        return account

    def _waits(self, role: RoleProcess, unready: str, now_s: float) -> tuple[Wait, ...]:
        account = self._of(role, now_s)
        since_s = max(now_s - account.since_s, 0.0)
        if role.finished:
            return ()
        if role.gone:
            return (Wait("", f"is not there: it {role.state}"[:256], since_s),)
        silent_s = max(now_s - (role.started_s if account.heard_s is None else account.heard_s), 0.0)
        if not role.ready:
            what = "is being started" if account.heard_s is None else f"gets ready ({role.state})"
            waits: tuple[Wait, ...] = (Wait("", what[:256], max(now_s - role.started_s, 0.0)),)
        elif role.state == "ready":
            waits = (Wait(unready, f"is ready and waits for {unready or 'the order to begin'}", since_s),)
        else:
            waits = tuple(Wait(wait.whom, wait.what, wait.age_s + silent_s) for wait in account.waits)
        if account.heard_s is None or silent_s < _SILENT_S:
            return waits
        last = f"; it said last that it {waits[0].what}" if waits else ""
        return (Wait("", f"gives no sign of life{_why_silent(role)}{last}"[:256], silent_s),)


def _why_silent(role: RoleProcess) -> str:
    """What the kernel says of a process, where that explains it."""
    if not role.is_here:
        return ""
    try:
        state = Path(f"/proc/{role.process.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return {
        "T": ": its process is stopped by a signal, such as SIGSTOP",
        "t": ": its process is stopped by a debugger",
        "D": ": its process waits for a disk or a device",
        "R": ": its process computes and does not come to report",
    }.get(state, "")


def queue_bounds(config: Config) -> Mapping[str, int]:
    """What each queue takes at most, by its name."""
    queues = config.queues
    return {
        "in_flight_groups": queues.in_flight_groups,
        # At both ends of the link and before it; admission lets no more live at once.
        "ready_groups": (eta_of(config) + 1) * config.group.groups_per_step + queues.oversample_groups,
        "trajectories": queues.trajectory_hwm,
        "rewards": queues.trajectory_hwm,
    }
