"""What a generator waits for or is at, told from its candidates, its credits and the versions that it knows of. Pure.

Candidates that sample are its own work, and so is loading weights; held and parked ones wait for a version, which is
the learner's to publish, or for the end of an evaluation that keeps an older one in the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts_async.algorithms.wait_graph import Pending, count

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GeneratorAt", "generator_waits"]


@dataclass(frozen=True, slots=True)
class GeneratorAt:
    """Where one replica stands."""

    version: int
    """Served."""
    num_running: int = 0
    """Candidates in the engine."""
    oldest_s: float = 0.0
    """For how long the oldest of all candidates has been here."""
    held: Sequence[int] = ()
    """Of the candidates that wait for a version and have not begun: which one."""
    parked: Sequence[int] = ()
    """The same of those that were stopped midway."""
    free: int = 0
    """Credits given out that no request has used yet."""
    known: int = 0
    """The newest version that it was told of."""
    loading: int | None = None
    """The version that is being loaded."""
    empties_for: int | None = None
    """The version that is loaded once the engine is empty."""
    evaluates: int | None = None
    """The version that is kept until its evaluation is over."""
    reports: int = 0
    """Ends of candidates that wait for room on the link to the selector."""
    tokens: object = None
    """Changes with every token."""
    sent: object = None
    """Changes with every message to the selector."""


def generator_waits(at: GeneratorAt) -> list[Pending]:
    """Return what it waits for and is at; never empty."""
    found: list[Pending] = []
    if at.loading is not None:
        found.append(Pending("", f"loads version {at.loading}"))
    if at.num_running:
        what = f"decodes {count(at.num_running, 'candidate')}, the oldest for {at.oldest_s:.0f} s"
        found.append(Pending("", what, (at.tokens, at.num_running), key="decodes"))
    if at.empties_for is not None and at.num_running:
        found.append(Pending("", f"loads version {at.empties_for} once the engine is empty", at.num_running))
    if at.reports:
        what = f"waits with {count(at.reports, 'report')} for room on the link to the selector"
        found.append(Pending("selector-0", what, at.sent, key="reports"))
    for versions, kind in ((at.held, "request"), (at.parked, "parked candidate")):
        if versions:
            found.append(_held(at, versions, kind))
    if not found:
        what = f"waits for requests: {count(at.free, 'credit')} given out and not used"
        found.append(Pending("allocator-0", what, at.sent))
    return found


def _held(at: GeneratorAt, versions: Sequence[int], kind: str) -> Pending:
    """Candidates that wait for a version."""
    wanted = min(versions)
    what = f"holds {count(len(versions), kind)} for version {wanted} (serves {at.version})"
    if wanted > at.known:
        return Pending("learner-0", f"{what}, which is not published yet", key=f"{kind} {wanted}")
    if at.evaluates is not None:
        what = f"{what}: version {at.evaluates} stays until its evaluation is over"
        return Pending("allocator-0", what, key=f"{kind} {wanted}")
    return Pending("", what, key=f"{kind} {wanted}")
