"""When training ends: the steps are done, or a limit on wall time or on tokens is reached. Pure; times are handed in.

Asked after each step, so a limit ends training with the step that reaches it, never within one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from darts_async.config import Config

EndedBy: TypeAlias = Literal["steps", "wall_s", "trained_tokens"]
ENDINGS: tuple[EndedBy, ...] = ("steps", "wall_s", "trained_tokens")


@dataclass(frozen=True, slots=True)
class RunLimits:
    """`run.steps`, `run.max_wall_s` and `run.max_trained_tokens`; None: no limit."""

    steps: int
    max_wall_s: float | None = None
    max_trained_tokens: int | None = None

    @classmethod
    def of(cls, config: Config) -> RunLimits:
        """The limits of a config."""
        return cls(config.run.steps, config.run.max_wall_s, config.run.max_trained_tokens)

    def ended_by(self, *, version: int, wall_s: float, trained_tokens: int) -> EndedBy | None:
        """Return what ends training with this version, or None. Of several, the first in the order of `ENDINGS`."""
        if version >= self.steps:
            return "steps"
        if self.max_wall_s is not None and wall_s >= self.max_wall_s:
            return "wall_s"
        if self.max_trained_tokens is not None and trained_tokens >= self.max_trained_tokens:
            return "trained_tokens"
        return None
