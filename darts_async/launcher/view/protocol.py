"""What the launcher tells whoever watches a run. A view never waits and never raises: it must not hold the run up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from darts_async.launcher.roles import RoleProcess
from darts_async.messages import EvalResult
from darts_async.runtime.outside_link import StatusAnswer

__all__ = ["View"]


class View(Protocol):
    """What the launcher tells whoever watches."""

    def attached(self, look: Callable[[], StatusAnswer]) -> None:
        """The run is there: this says at any moment how it is, as anybody outside is told."""

    def roles(self, roles: Iterable[RoleProcess]) -> None:
        """The processes were started."""

    def crew(self, roles: Iterable[RoleProcess]) -> None:
        """Who takes part now: a generator from elsewhere has come or gone."""

    def ready(self, role: RoleProcess) -> None:
        """One role can work."""

    def begun(self) -> None:
        """All roles can work."""

    def refresh(self) -> None:
        """Some role's state or gauges changed."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A learner step is complete, with everything that is known of it."""

    def evaluated(self, result: EvalResult) -> None:
        """The held-out set was scored."""

    def note(self, text: str) -> None:
        """Something a person should read."""
