"""Where each file of a trace lies on the run's own time, which is that of `wall_s` in `metrics.jsonl`: seconds since
the run was started, without the pauses between its starts.

Files of one machine share a monotonic clock, so among themselves they are exact. Everything else is laid by the time
of day at which a file was opened: a start of the run by what `starts.json` says of it, a generator of another host by
that host's clock, so that it is off by as much as the two clocks differ (a few milliseconds with NTP).
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import msgspec

from darts_async.tracing.records import VIRTUAL, FileOpened

__all__ = ["Start", "offsets_us", "read_starts"]


class Start(msgspec.Struct):
    """A start of the run, of which more is known elsewhere."""

    began_at: float
    """Seconds since 1970."""
    wall_s: float = 0.0


def read_starts(path: Path) -> list[Start]:
    """Those of a run; none where nothing can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=list[Start])
    return []


def offsets_us(files: Sequence[FileOpened], starts: Sequence[Start]) -> list[int]:
    """Return for each file the microsecond of the run at which it was opened."""
    real = [file for file in files if file.clock != VIRTUAL]
    if real and not starts:
        starts = [Start(began_at=min(file.wall_s for file in real))]
    began = [start.began_at for start in starts]
    before = [0.0, *accumulate(start.wall_s for start in starts)]
    first: dict[tuple[str, int], FileOpened] = {}
    of_start = [max(bisect_right(began, file.wall_s) - 1, 0) for file in files]
    for file, number in zip(files, of_start, strict=True):
        known = first.setdefault((file.clock, number), file)
        if file.clock_s < known.clock_s:
            first[file.clock, number] = file
    offsets = []
    for file, number in zip(files, of_start, strict=True):
        if file.clock == VIRTUAL:
            offset_s = file.clock_s
        else:
            reference = first[file.clock, number]
            offset_s = before[number] + reference.wall_s - began[number] + file.clock_s - reference.clock_s
        offsets.append(max(int(offset_s * 1e6), 0))
    return offsets
