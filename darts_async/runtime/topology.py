"""Which links there are, who binds them, what they carry, and where they are reached.

One table for both ends, so that a link's type and direction stand in a single place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from darts_async.messages import (
    ROLES,
    ChunkNews,
    FromAllocator,
    FromAllocatorToSelector,
    FromGenerator,
    FromLearner,
    FromSupervisor,
    GeneratorHello,
    PlanReply,
    PolicyReply,
    PolicyUpdate,
    Role,
    ToGenerator,
    ToLearner,
    ToSelector,
    ToSupervisor,
)

LinkName: TypeAlias = Literal[
    "control", "plans", "rollouts", "trajectories", "cancels", "groups", "steps", "policy", "chunks"
]


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One link. `kind` stream: many senders push, one receiver pulls. `kind` hub: one hub, many named dealers.

    `forward` is what flows to the binder, `backward` what the hub sends to its dealers (None for streams).
    """

    kind: Literal["stream", "hub"]
    binder: Role | Literal["supervisor"]
    forward: Any
    backward: Any = None


LINKS: dict[LinkName, LinkSpec] = {
    "control": LinkSpec("hub", "supervisor", ToSupervisor, FromSupervisor),
    "plans": LinkSpec("hub", "selector", FromAllocatorToSelector, PlanReply),
    "rollouts": LinkSpec("hub", "allocator", FromGenerator, FromAllocator),
    "trajectories": LinkSpec("stream", "selector", ToSelector),
    "cancels": LinkSpec("hub", "selector", GeneratorHello, ToGenerator),
    "groups": LinkSpec("stream", "learner", ToLearner),
    "steps": LinkSpec("stream", "selector", FromLearner),
    "policy": LinkSpec("hub", "learner", PolicyReply, PolicyUpdate),
    "chunks": LinkSpec("stream", "learner", ChunkNews),
}

USED: dict[Role, tuple[LinkName, ...]] = {
    "allocator": ("plans", "rollouts", "policy"),
    "generator": ("rollouts", "trajectories", "cancels", "policy", "chunks"),
    "selector": ("plans", "trajectories", "cancels", "groups", "steps"),
    "learner": ("groups", "steps", "policy", "chunks"),
}
"""The links of each role, beside the control link."""

CONTROL_HWM = 1024
"""Bound on small control messages that wait on a link; they come a few a second."""


class FarWeightsPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a generator fetches weights that it does not see as files."""

    endpoint: str
    """Of the link on which it joined."""
    folder: str
    """Where they are put, on this host."""
    max_bytes: int
    """Nothing larger is taken for a version of this model."""


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a role's process needs to find its place: handed over as a JSON file in the run folder."""

    config: str
    """Path of the resolved config."""
    endpoints: dict[str, str]
    """Link name to ZeroMQ endpoint."""
    heartbeat_s: float = 1.0
    keys: str = ""
    """Folder of the run's CURVE keys; empty where the links need none."""
    resumed: bool = False
    """The run folder is that of a run that was cut off: roles take up what is there."""
    weights: FarWeightsPlace | None = None
    """Where a generator that joined from elsewhere gets the weights; None: from the files that are published."""


def roles_that_connect(link: LinkName) -> tuple[Role, ...]:
    """Return the roles at the other end from the one that binds a link."""
    if link == "control":
        return ROLES
    return tuple(role for role in ROLES if link in USED[role] and role != LINKS[link].binder)


def dealers(link: LinkName, replicas: int) -> frozenset[str]:
    """Return the names of a hub's dealers. `replicas`: with those that may join."""
    ranks = {"generator": replicas}
    return frozenset(f"{role}-{rank}" for role in roles_that_connect(link) for rank in range(ranks.get(role, 1)))


def endpoints(bind: tuple[str, int] | None, socket_folder: str) -> dict[str, str]:
    """Return an endpoint for every link: consecutive TCP ports, or sockets in a folder (short: 107 bytes at most)."""
    if bind is None:
        return {name: f"ipc://{socket_folder}/{name}" for name in LINKS}
    host, port = bind
    return {name: f"tcp://{host}:{port + offset}" for offset, name in enumerate(LINKS)}
