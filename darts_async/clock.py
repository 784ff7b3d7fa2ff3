"""Seconds that only ever go up: what roles measure and write down times with. A simulation puts its own clock here.

Waiting is not done here but in the event loop (`asyncio.sleep`, `asyncio.timeout`), whose time agrees with this.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

__all__ = ["is_real", "now_s", "reading"]

_source: Callable[[], float] = time.monotonic


def now_s() -> float:
    """Return the seconds since some moment in the past."""
    return _source()


def is_real() -> bool:
    """Whether that is this machine's monotonic clock, and not a simulation's."""
    return _source is time.monotonic


@contextlib.contextmanager
def reading(source: Callable[[], float]) -> Iterator[None]:
    """Have `now_s` read another clock meanwhile, in the whole process."""
    global _source  # noqa: PLW0603 - one process has one time
    before, _source = _source, source
    try:
        yield
    finally:
        _source = before
