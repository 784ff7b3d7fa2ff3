"""Who can take how many candidates: the sender's books of credits, and which replica gets a group."""

from __future__ import annotations


class CreditBook:
    """Credits per replica, as cumulative counts (granted by the replica, spent by the sender).

    A replica's free credits are `granted - spent`; it never holds more candidates than it granted. Cumulative grants
    make a repeated or overtaken message harmless.
    """

    def __init__(self) -> None:
        self._granted: dict[str, int] = {}
        self._spent: dict[str, int] = {}

    def grant(self, peer: str, granted_total: int) -> None:
        """A replica is ready for `granted_total` candidates over its lifetime."""
        self._granted[peer] = max(granted_total, self._granted.get(peer, 0))
        self._spent.setdefault(peer, 0)

    def free(self, peer: str) -> int:
        """Candidates that can be sent to a replica now."""
        return self._granted.get(peer, 0) - self._spent.get(peer, 0)

    def pick(self, num_candidates: int, reserve: int = 0) -> str | None:
        """Return the replica with the most free credits that can take all of a group, or None. Ties: by name.

        reserve: credits of each replica that this group may not use.
        """
        best = min(self._granted, key=lambda peer: (-self.free(peer), peer), default=None)
        return best if best is not None and self.free(best) - reserve >= num_candidates else None

    @property
    def peers(self) -> tuple[str, ...]:
        """Replicas that have granted any, by name."""
        return tuple(sorted(self._granted))

    def spend(self, peer: str, num_candidates: int) -> None:
        """Candidates were sent. Raises `ValueError` when the replica has not granted that many."""
        if self.free(peer) < num_candidates:
            raise ValueError(f"{peer} has {self.free(peer)} credits, {num_candidates} were spent")
        self._spent[peer] += num_candidates
