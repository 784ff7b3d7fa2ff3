"""What each actor is handed: its ends of the links, by name and type. The same over ZeroMQ and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from darts_async.messages import (
    AllocatorHello,
    ChunkNews,
    FromAllocator,
    FromAllocatorToSelector,
    FromGenerator,
    FromLearner,
    GeneratorHello,
    Message,
    PlanReply,
    PolicyApplied,
    PolicyReply,
    PolicyScored,
    PolicyUpdate,
    RoleLost,
    SetKnobs,
    ToGenerator,
    ToLearner,
    ToSelector,
)
from darts_async.runtime.waiting import Look
from darts_async.transport.links import Dealer, Hub, Receiver, Sender


class Supervisor(Protocol):
    """A role's side of the control link.

    Life of a role: load, `await ready()`, work until `stopping` is set (or the work is done), drain, `await
    finish(summary)`, return. A heartbeat with `state` and `gauges` goes out every second by itself.
    """

    stopping: asyncio.Event
    """Set when the supervisor asked for a stop (or is gone). Wait on it; never poll."""
    stop_reason: str
    """`done`, `interrupted` or `fault` once `stopping` is set."""
    state: str
    """One or two words for the live view."""
    gauges: dict[str, float]
    """Current values by metric name; whatever is in here travels with the next heartbeat."""
    incarnation: int
    """Which start of the role this is; 0 is the first. From 1 on, and in a resumed run, it takes up what is there."""
    resumed: bool
    """The run was cut off before and goes on."""
    losses: asyncio.Queue[RoleLost]
    """Other roles whose present start is over, in order."""
    look: Look
    """Set by the role: its account of itself, for every heartbeat."""
    knobs: Callable[[SetKnobs], Awaitable[str]] | None
    """Set by the role: takes new settings, returns why not (empty: taken). Orders from before it was set are kept."""

    async def ready(self) -> None:
        """Say READY and wait for the others. Returns early, with `stopping` set, if the run is stopped meanwhile."""

    async def send(self, message: Message) -> None:
        """Report something: `StepMetrics`, `EvalResult`, `Warn`, `RunComplete`."""

    async def finish(self, summary: dict[str, float]) -> None:
        """Report the role's part of the summary; the role is about to exit with status 0."""


async def as_published(update: PolicyUpdate) -> str:
    """Where a replica on the run's own host finds a version's weights."""
    return update.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorLinks:
    """Links of one generator replica."""

    rank: int
    rollouts: Dealer[FromGenerator, FromAllocator]
    trajectories: Sender[ToSelector]
    cancels: Dealer[GeneratorHello, ToGenerator]
    policy: Dealer[GeneratorHello | PolicyApplied, PolicyUpdate]
    chunks: Sender[ChunkNews]
    supervisor: Supervisor
    weights: Callable[[PolicyUpdate], Awaitable[str]] = as_published
    """Brings a version's weights here; returns the path that the engine can read. Raises `ProtocolError` when they are
    not there (any more), `LinkBroken` when they cannot be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorLinks:
    """Links of the selector."""

    rank: int
    plans: Hub[PlanReply, FromAllocatorToSelector]
    trajectories: Receiver[ToSelector]
    cancels: Hub[ToGenerator, GeneratorHello]
    groups: Sender[ToLearner]
    steps: Receiver[FromLearner]
    supervisor: Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorLinks:
    """Links of the allocator."""

    rank: int
    plans: Dealer[FromAllocatorToSelector, PlanReply]
    rollouts: Hub[FromAllocator, FromGenerator]
    policy: Dealer[AllocatorHello | PolicyScored, PolicyUpdate]
    supervisor: Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerLinks:
    """Links of the learner."""

    rank: int
    groups: Receiver[ToLearner]
    chunks: Receiver[ChunkNews]
    steps: Sender[FromLearner]
    policy: Hub[PolicyUpdate, PolicyReply]
    supervisor: Supervisor
