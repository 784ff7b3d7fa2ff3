"""The starts of one run, `<run>/starts.json`: the launcher's own memory, from which the summary of all of them is made.

Invariant: a start that was cut off is in here with the time and the restarts it had at its last beat. The file is
replaced whole and not synced: after a power cut the last beats may be missing, and what `metrics.jsonl` says counts.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from darts_async import clock
from darts_async.durable import partial_of, write_anew

__all__ = ["BEAT_S", "RunStarts", "Start", "read_starts"]

BEAT_S: Final = 5.0
"""So much of the time of a start that is cut off may be forgotten."""


class Start(msgspec.Struct, kw_only=True):
    """One start of the launcher."""

    began_at: float
    """Seconds since 1970."""
    steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    """That were done when it began."""
    wall_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How long it has lasted."""
    restarts: dict[str, int] = {}
    """How often it started a role anew, by the role's name."""
    status: str = ""
    """How it ended; empty: it was cut off, or goes on."""


def read_starts(path: Path) -> list[Start]:
    """Return the starts that a file has; none if there is no such file, or nothing that can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=list[Start])
    return []


class RunStarts:
    """The file, for the start that goes on."""

    def __init__(self, path: Path, earlier: Sequence[Start] = (), *, steps: int = 0) -> None:
        """`steps`: that are done."""
        self._path = path
        self._earlier = list(earlier)
        self._began_s = clock.now_s()
        self._now = Start(began_at=time.time(), steps=steps)

    @property
    def num_resumes(self) -> int:
        """How often the run was taken up again."""
        return len(self._earlier)

    @property
    def earlier_s(self) -> float:
        """How long the earlier starts lasted, together."""
        return sum(start.wall_s for start in self._earlier)

    @property
    def wall_s(self) -> float:
        """How long the run has lasted, over all starts."""
        return self.earlier_s + clock.now_s() - self._began_s

    def restarts(self, now: Mapping[str, int]) -> dict[str, int]:
        """How often each role was started anew within a start, over all of them. `now`: in this one."""
        total: Counter[str] = Counter()
        for counts in (*(start.restarts for start in self._earlier), now):
            total.update(counts)
        return dict(total)

    def beat(self, restarts: Mapping[str, int], status: str = "") -> None:
        """Write down how it stands. Raises `OSError`."""
        self._now.wall_s = round(clock.now_s() - self._began_s, 3)
        self._now.restarts, self._now.status = dict(restarts), status
        partial = partial_of(self._path)
        write_anew(partial, msgspec.json.format(msgspec.json.encode([*self._earlier, self._now])) + b"\n")
        partial.replace(self._path)
