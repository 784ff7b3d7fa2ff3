"""Logging of a process: standard library, one format, to standard error (the launcher points it at the role's log)."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"


def configure(level: int = logging.INFO) -> None:
    """Set up the root logger. INFO is for state changes a person acts on; per-message facts are counters."""
    logging.basicConfig(level=level, format=_FORMAT, datefmt="%H:%M:%S", stream=sys.stderr, force=True)
