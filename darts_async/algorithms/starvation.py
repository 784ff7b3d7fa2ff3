"""Prompts that are sampled again and again and never trained: counted, so that they are not silently lost.

A prompt's streak is the number of its groups that ended untrained (dropped, rejected, swept, cancelled) since it was
last trained. Only prompts with a streak are remembered. Decides nothing: the prompt order stays as it is.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["ALARM_STREAK", "STARVING_STREAK", "Starvation"]

STARVING_STREAK: Final = 3
"""Groups in a row that ended untrained: from here on a prompt counts as starving."""

ALARM_STREAK: Final = 10
"""From here on a person should know."""


class Starvation:
    """Streaks of all prompts."""

    def __init__(self) -> None:
        self.longest = 0
        """Longest streak of the run so far."""
        self._streaks: dict[str, int] = {}
        self._by_streak: Counter[int] = Counter()
        self._num_alarms = 0
        self._tell_at = 1

    @property
    def num_prompts(self) -> int:
        """Prompts that starve now."""
        return sum(count for streak, count in self._by_streak.items() if streak >= STARVING_STREAK)

    @property
    def max(self) -> int:
        """Longest streak that lasts."""
        return max((streak for streak, count in self._by_streak.items() if count), default=0)

    def ended(self, prompt_id: str, *, trained: bool) -> str | None:
        """A group of a prompt ended. Return a warning when one is due.

        Due when a prompt's streak reaches `ALARM_STREAK`: the first time, then whenever that has happened twice as
        often as at the last warning, so that a run in which everything starves is told so a few times, not once each.
        """
        before = self._streaks.pop(prompt_id, 0)
        if before:
            self._by_streak[before] -= 1
            if not self._by_streak[before]:
                del self._by_streak[before]
        if trained:
            return None
        streak = self._streaks[prompt_id] = before + 1
        self._by_streak[streak] += 1
        self.longest = max(self.longest, streak)
        if streak != ALARM_STREAK:
            return None
        self._num_alarms += 1
        if self._num_alarms < self._tell_at:
            return None
        self._tell_at = 2 * self._num_alarms
        return (
            f"{ALARM_STREAK} groups in a row of prompt {prompt_id!r} ended untrained "
            f"({self.num_prompts} prompts have {STARVING_STREAK} or more in a row)"
        )
