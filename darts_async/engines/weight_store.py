"""Which published weight versions still exist. No torch: the learner's event loop asks it.

Invariants: the latest version always exists, and so does every version from the oldest that some replica may still be
loading. A replica that has confirmed version v never asks for an older one.
"""

from __future__ import annotations

import re
from pathlib import Path

_VERSION_FILE = re.compile(r"^v(\d{6,})\.safetensors$")


class WeightStore:
    """Names, confirmations and retention of `v<version>.safetensors` in one folder."""

    def __init__(self, folder: Path, replicas: int) -> None:
        self.folder = folder
        self._replicas = replicas
        self._confirmed: dict[int, int] = {}

    def path_of(self, version: int) -> Path:
        """Where a version is (or will be) published."""
        return self.folder / f"v{version:06d}.safetensors"

    def confirm(self, replica: int, version: int) -> None:
        """A replica serves this version; a late report of an older one changes nothing."""
        self._confirmed[replica] = max(version, self._confirmed.get(replica, 0))

    def clear(self) -> None:
        """Remove what an earlier run left behind, half-written files included."""
        for path in self.folder.glob("*.safetensors*") if self.folder.is_dir() else ():
            path.unlink(missing_ok=True)
        for path in self.folder.glob(".*.partial") if self.folder.is_dir() else ():
            path.unlink(missing_ok=True)

    def prune(self) -> list[int]:
        """Remove the versions that nobody can need any more; return them, oldest first."""
        versions = self.versions()
        if not versions or len(self._confirmed) < self._replicas:
            return []
        oldest_needed = min(*self._confirmed.values(), versions[-1])
        removed = [version for version in versions if version < oldest_needed]
        for version in removed:
            self.path_of(version).unlink(missing_ok=True)
        return removed

    def versions(self) -> list[int]:
        """Versions that exist, oldest first."""
        if not self.folder.is_dir():
            return []
        matches = (_VERSION_FILE.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)
