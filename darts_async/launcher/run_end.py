"""What a run that does not answer left behind: how and when it ended, or when it last gave a sign of life.

Reads the run folder only; what cannot be read is left out.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from darts_async.config.paths import RunPaths
from darts_async.launcher.status_text import clock

__all__ = ["RunEnd"]

_AFTER_S: Final = 5.0
"""The summary is the last thing that a run writes, but for a few lines of its roles' logs."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """Of a run that nobody answers for."""

    status: str | None
    """As in the summary: `done`, `interrupted`, `failed`; None when there is none: it was killed, or has not begun."""
    steps: int | None
    reason: str
    at_s: float | None
    """When it ended or was last heard of, in seconds since the epoch; None when nothing tells."""
    summary: Path

    @classmethod
    def of(cls, paths: RunPaths) -> RunEnd:
        """Look into a run folder."""
        signs = (*paths.logs.glob("*.log"), *paths.ledger.glob("*"), paths.metrics)
        last_s = max(filter(None, map(_changed_s, signs)), default=None)
        try:
            summary: dict[str, Any] = json.loads(paths.summary.read_text("utf-8"))
            status, steps, reason = str(summary["status"]), int(summary["steps"]), str(summary.get("reason", ""))
            at_s = paths.summary.stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            return cls(None, None, "", last_s, paths.summary)
        if last_s is not None and last_s > at_s + _AFTER_S:
            return cls(None, None, "", last_s, paths.summary)  # the summary is of an earlier start of the run
        return cls(status, steps, reason, at_s, paths.summary)

    def text(self, now_s: float | None = None) -> str:
        """The same in sentences. now_s: seconds since the epoch."""
        if self.status is None:
            if self.at_s is None:
                return "nobody is running this run, and it has left nothing: it has not begun"
            return f"the run is over: it was killed; its last sign of life was {self._when(now_s)}{self._go_on}"
        how = f"the run is over: {self.status} after {self.steps} steps, {self._when(now_s)}"
        why = f"\nwhy: {self.reason}" if self.reason else ""
        return f"{how}{why}\nits summary: {self.summary}{self._go_on if self.status == 'interrupted' else ''}"

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        ended = None if self.at_s is None else dt.datetime.fromtimestamp(self.at_s, dt.UTC).isoformat("T", "seconds")
        return {"state": "over", "status": self.status, "steps": self.steps, "reason": self.reason, "at": ended}

    @property
    def _go_on(self) -> str:
        return f"\ngo on with it: darts-async up --resume {self.summary.parent}"

    def _when(self, now_s: float | None) -> str:
        if self.at_s is None:
            return "at a time that nothing tells"
        at = dt.datetime.fromtimestamp(self.at_s).astimezone().isoformat(" ", "seconds")
        return f"at {at} ({clock(max((time.time() if now_s is None else now_s) - self.at_s, 0.0))} ago)"


def _changed_s(path: Path) -> float | None:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return None
