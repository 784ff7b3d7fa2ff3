"""Who can take how many candidates: the sender's books of credits, and which replica gets a group.

Invariant: a start of a replica is never sent more candidates than this very start has granted. What an earlier start
granted or was sent means nothing once it is over, whatever still arrives from it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Account:
    """One start of a replica."""

    incarnation: int
    granted: int = 0
    spent: int = 0
    over: bool = False
    """It was lost; the next one has not granted anything yet."""


class CreditBook:
    """Credits per replica, as cumulative counts (granted by the replica, spent by the sender).

    A replica's free credits are `granted - spent`; it never holds more candidates than it granted. Cumulative grants
    make a repeated or overtaken message harmless.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def grant(self, peer: str, granted_total: int, incarnation: int = 0) -> bool:
        """A start of a replica is ready for `granted_total` candidates over its lifetime. Return whether it is news
        that this start exists; totals of starts that are over are ignored."""
        account = self._accounts.get(peer)
        if account is not None and incarnation < account.incarnation + account.over:
            return False
        is_new = account is None or incarnation > account.incarnation
        if account is None or is_new:
            account = self._accounts[peer] = _Account(incarnation)
        account.granted = max(account.granted, granted_total)
        return is_new

    def forget(self, peer: str, incarnation: int) -> bool:
        """A start of a replica is over, and with it its credits. False if that, or a later start, was known."""
        account = self._accounts.get(peer)
        if account is not None and incarnation < account.incarnation + account.over:
            return False
        self._accounts[peer] = _Account(incarnation, over=True)
        return True

    def free(self, peer: str) -> int:
        """Candidates that can be sent to a replica now."""
        account = self._accounts.get(peer)
        return 0 if account is None else account.granted - account.spent

    def incarnation(self, peer: str) -> int | None:
        """Which start of a replica there is to send to; None if there is none."""
        account = self._accounts.get(peer)
        return None if account is None or account.over else account.incarnation

    def pick(self, num_candidates: int, reserve: int = 0) -> str | None:
        """Return the replica with the most free credits that can take all of a group, or None. Ties: by name.

        reserve: credits of each replica that this group may not use.
        """
        best = min(self.peers, key=lambda peer: (-self.free(peer), peer), default=None)
        return best if best is not None and self.free(best) - reserve >= num_candidates else None

    def refund(self, peer: str, num_candidates: int, incarnation: int) -> None:
        """Candidates that were booked for a start of a replica were not sent after all."""
        account = self._accounts.get(peer)
        if account is not None and account.incarnation == incarnation and not account.over:
            account.spent -= num_candidates

    @property
    def peers(self) -> tuple[str, ...]:
        """Replicas that have granted any and are not lost, by name."""
        return tuple(sorted(peer for peer, account in self._accounts.items() if not account.over))

    def spend(self, peer: str, num_candidates: int) -> None:
        """Candidates were sent. Raises `ValueError` when the replica has not granted that many."""
        if self.free(peer) < num_candidates:
            raise ValueError(f"{peer} has {self.free(peer)} credits, {num_candidates} were spent")
        if num_candidates:
            self._accounts[peer].spent += num_candidates
