"""Reads `metrics.jsonl` as it grows. Never writes; what is no whole line yet is read again later.

Invariant: every whole line is read once, also when the run is cut off in the middle of one and goes on (the torn end is
cut off then, and the line comes whole).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from darts_async.launcher.view.history import History

__all__ = ["MetricsTail"]

_CHUNK: Final = 1 << 20
"""No line is near that long."""


class MetricsTail:
    """Of one file, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.history = History()
        """Of all that was read."""
        self._path = path
        self._offset = 0
        """Behind the last whole line."""
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def read(self) -> None:
        """Read what has come since."""
        try:
            with self._path.open("rb") as file:
                file.seek(0, 2)
                if file.tell() < self._offset:  # not the file it was
                    self._offset, self.history = 0, History()
                file.seek(self._offset)
                while self._take(file.read(_CHUNK)):
                    file.seek(self._offset)
        except OSError:
            return

    def _take(self, data: bytes) -> bool:
        """True: there may be more."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._offset += len(data) if len(data) == _CHUNK else 0
            return len(data) == _CHUNK
        for line in data[:end].splitlines():
            try:
                self.history.add(self._decode(line))
            except msgspec.MsgspecError:
                continue
        self._offset += end
        return len(data) == _CHUNK
