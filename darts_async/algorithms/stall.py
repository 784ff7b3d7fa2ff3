"""Has anything moved? The launcher's watchdog over the roles' counters of progress. Pure; times are handed in.

A stall is reported once: it is over when some role's counter changes, and only then can there be another one. A role
that starts anew counts from zero, which is a change too.
"""

from __future__ import annotations

__all__ = ["StallWatch"]


class StallWatch:
    """Progress of all roles together. Begins with `start`."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        """May change at any time."""
        self.num_stalls = 0
        self._counts: dict[str, int] = {}
        self._moved_s: float | None = None
        self._reported = False

    def start(self, now_s: float) -> None:
        """From now on somebody should get on."""
        self._moved_s = now_s
        self._reported = False

    def heard(self, role: str, progress: int, now_s: float) -> None:
        """A role's counter."""
        if self._counts.get(role) != progress:
            self._counts[role] = progress
            if self._moved_s is not None:
                self.start(now_s)

    def stopped(self) -> None:
        """Nothing is expected any more."""
        self._moved_s = None

    def still_s(self, now_s: float) -> float:
        """For how long nothing has moved; 0 before the start."""
        return 0.0 if self._moved_s is None else now_s - self._moved_s

    def due_in_s(self, now_s: float) -> float:
        """When to look again at the latest, in seconds from now."""
        if self._moved_s is None or self._reported:
            return self.stall_s
        return max(self._moved_s + self.stall_s - now_s, 0.0)

    def is_stalled(self, now_s: float) -> bool:
        """Whether a stall is to be reported now: true once for each."""
        if self._moved_s is None or self._reported or self.still_s(now_s) < self.stall_s:
            return False
        self._reported = True
        self.num_stalls += 1
        return True
