"""What the allocator waits for, told from its books: candidates of an evaluation, credits, the bounds of admission.

Pure; says what `Dispatcher.next_job` would answer None for, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from darts_async.algorithms.wait_graph import Pending

if TYPE_CHECKING:
    from darts_async.algorithms.credits import CreditBook
    from darts_async.algorithms.evaluation import Evaluation
    from darts_async.algorithms.staleness import Admission

__all__ = ["admission_waits", "credit_waits", "evaluation_waits"]

_MAX_PEERS = 8
"""Replicas named; with more of them the ones with the fewest free credits."""


def evaluation_waits(evaluation: Evaluation) -> list[Pending]:
    """Of the evaluation under way, once all of it is dispatched."""
    if not evaluation.num_open:
        return []
    what = f"waits for {evaluation.num_open} of {evaluation.num_prompts} held-out groups at version"
    return [Pending("selector-0", f"{what} {evaluation.version}")]


def credit_waits(book: CreditBook, wanted: int, what: str, reserve: int = 0) -> list[Pending]:
    """Nobody has as many free credits as the next job needs."""
    peers: Sequence[str] = sorted(book.peers, key=lambda peer: (book.free(peer), peer))[:_MAX_PEERS]
    if not peers:
        return [Pending("generator-0", f"waits for the first credits of a generator, for {what}")]
    found = []
    for peer in peers:
        free = max(book.free(peer) - reserve, 0)
        said = f"waits for credits of {peer} for {what}: {free} free of {wanted} needed"
        found.append(Pending(peer, said, free, key=f"credits for {what}"))
    return found


def admission_waits(admission: Admission) -> list[Pending]:
    """The bound that keeps the next training group from starting; empty when none does."""
    mark = (admission.version, admission.trained, admission.in_flight, admission.live)
    match admission.blocked_by():
        case "in_flight":
            bound = admission.in_flight_groups
            what = f"waits for one of {admission.in_flight} groups in flight (queues.in_flight_groups = {bound})"
            return [Pending("selector-0", what, mark, key="in flight")]
        case "horizon":
            what = (
                f"waits for version {admission.version + 1}: {admission.trained} groups trained and {admission.live} "
                f"live reach the bound of {admission.horizon} (staleness at most {admission.eta})"
            )
            return [Pending("learner-0", what, mark)]
        case "run":
            what = f"has dispatched all groups of the run and waits until the last {admission.live} are trained"
            return [Pending("learner-0", what, mark)]
    return []
