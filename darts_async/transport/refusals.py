"""Counts the messages that a link has refused, and says so in the log now and then.

Invariant: however many come, the log gets a line in ten seconds, of bounded length and without control characters: what
a stranger sends must not fill the disk or forge lines.
"""

from __future__ import annotations

import logging
import time
from typing import Final

__all__ = ["Refusals"]

_log = logging.getLogger(__name__)
_WARN_EVERY_S: Final = 10.0
_MAX_CHARS: Final = 300


class Refusals:
    """Of one link end."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.count = 0
        self._quiet_until = -1.0

    def refuse(self, peer: bytes, why: object) -> None:
        """A message was dropped. `peer`: its sender's name, where there is one."""
        self.count += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _WARN_EVERY_S
            text = ascii(str(why)[:_MAX_CHARS])[1:-1]
            _log.warning("%s: dropped a message of %r: %s (%d so far)", self.endpoint, peer[:64], text, self.count)
