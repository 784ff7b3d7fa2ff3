"""A view of a run for a program: which processes it has, when each was ready, when steps were trained.

It passes everything on to the view that a person sees.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from darts_async.launcher.roles import RoleProcess
from darts_async.launcher.view import View
from darts_async.messages import EvalResult
from darts_async.runtime.outside_link import StatusAnswer

__all__ = ["RunWatch"]


class RunWatch:
    """Implements `View`. Waits of several tasks at once are fine."""

    def __init__(self, inner: View) -> None:
        self.processes: dict[str, RoleProcess] = {}
        """By name."""
        self.groups: set[int] = set()
        """Process groups of all starts ever."""
        self.times_ready: Counter[str] = Counter()
        """Starts of each role that came to be ready."""
        self.num_steps = 0
        """Steps that were reported whole."""
        self.begun_s = 0.0
        """When all roles were ready, by the monotonic clock."""
        self._inner = inner
        self._news = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that was told makes the condition true."""
        while not condition():
            await self._news.wait()

    def attached(self, look: Callable[[], StatusAnswer]) -> None:
        """The run is there."""
        self._inner.attached(look)

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        """The processes were started."""
        known = list(roles)
        for role in known:
            self._know(role)
        self._inner.roles(known)
        self._tell()

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        """A generator from elsewhere has come or gone; it is not this machine's to see."""
        self._inner.crew(roles)

    def ready(self, role: RoleProcess) -> None:
        """One role can work."""
        self._know(role)
        self.times_ready[role.name] += 1
        self._inner.ready(role)
        self._tell()

    def begun(self) -> None:
        """All roles can work."""
        self.begun_s = time.monotonic()
        self._inner.begun()
        self._tell()

    def refresh(self) -> None:
        """Some role's state or gauges changed, or it is being started again."""
        for role in self.processes.values():
            self.groups.add(role.process.pid)
        self._inner.refresh()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A learner step is complete."""
        self.num_steps += 1
        self._inner.step(step, values)
        self._tell()

    def evaluated(self, result: EvalResult) -> None:
        """The held-out set was scored."""
        self._inner.evaluated(result)

    def note(self, text: str) -> None:
        """Something a person should read."""
        self._inner.note(text)

    def _know(self, role: RoleProcess) -> None:
        self.processes[role.name] = role
        self.groups.add(role.process.pid)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
