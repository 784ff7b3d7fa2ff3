"""When a role is started anew: which ends a restart can cure, how long to wait, and when it is enough. Pure.

Invariants: a role is restarted at most `launch.max_restarts` times in a run, each name counted by itself; the wait
doubles with every restart of it and never exceeds a minute; what a restart cannot cure (a wrong config, a broken
contract, a bug) is never tried again. A role counts as silent only for time in which the watcher itself was awake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_BACKOFF_S", "Loss", "RestartPolicy", "SignsOfLife"]

MAX_BACKOFF_S: Final = 60.0
_MAX_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True)
class Loss:
    """How a start of a role ended."""

    text: str
    """What follows the role's name in a sentence."""
    curable: bool
    """Starting it anew can help."""

    @classmethod
    def of(cls, ending: str, *, by_signal: bool, fault: str = "", curable: bool = False, killed_for: str = "") -> Loss:
        """Judge an end: what the role itself reported goes before why it was killed, and that before its status."""
        if fault:
            return cls(f": {fault}", curable)
        if killed_for:
            return cls(f" {killed_for}", curable=True)
        return cls(f" {ending}", curable=by_signal)


class RestartPolicy:
    """The restarts of a run."""

    def __init__(self, max_restarts: int, backoff_s: float) -> None:
        self.max_restarts = max_restarts
        self._backoff_s = backoff_s
        self.counts: dict[str, int] = {}
        """Restarts by the role's name; those that never were have no entry."""

    def restart(self, name: str) -> float | None:
        """Count a restart of a role; return the seconds to wait before it, or None if none is left."""
        done = self.counts.get(name, 0)
        if done >= self.max_restarts:
            return None
        self.counts[name] = done + 1
        return min(self._backoff_s * 2.0 ** min(done, _MAX_DOUBLINGS), MAX_BACKOFF_S)


class SignsOfLife:
    """When each role was heard of last. Times are monotonic seconds."""

    def __init__(self, silence_s: float, look_s: float) -> None:
        """`look_s`: how often `silent` is asked for; what is missing of that, the watcher itself slept through."""
        self._silence_s = silence_s
        self._look_s = look_s
        self._heard: dict[str, float] = {}
        self._looked: float | None = None

    def heard(self, name: str, now_s: float) -> None:
        """A message of a role is here."""
        self._heard[name] = now_s

    def forget(self, name: str) -> None:
        """A role is gone: it is silent again only once it has been heard of."""
        self._heard.pop(name, None)

    def silent(self, now_s: float) -> list[str]:
        """Return who has been silent for too long."""
        slept_s = 0.0 if self._looked is None else max(0.0, now_s - self._looked - 2 * self._look_s)
        self._looked = now_s
        if slept_s:
            # Messages that came meanwhile are still unread: whoever sent them must not pay for it.
            self._heard = {name: heard_s + slept_s for name, heard_s in self._heard.items()}
        return [name for name, heard_s in self._heard.items() if now_s - heard_s > self._silence_s]
