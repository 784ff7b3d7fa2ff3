"""Which published weight versions still exist. No torch: the learner's event loop asks it.

Invariants: the latest version always exists, and so does every version from the oldest that some replica may still be
loading, unless it was overtaken by so many that keeping them would fill the memory. A replica that has confirmed
version v never asks for an older one; one that was started anew has confirmed nothing, and asks for none that is not
there when it begins.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

MOST_KEPT: Final = 16
"""Versions that replicas may still be loading: each takes as much shared memory as the model's weights."""
_VERSION_FILE = re.compile(r"^v(\d{6,})\.safetensors$")


class WeightStore:
    """Names, confirmations and retention of `v<version>.safetensors` in one folder."""

    def __init__(self, folder: Path, replicas: int) -> None:
        """`replicas`: those that the run starts, which are waited for; others may come."""
        self.folder = folder
        self._awaited = set(range(replicas))
        """Replicas that begin: what they may be told of now is kept."""
        self._confirmed: dict[int, int] = {}
        self.gone_through = -1
        """Versions up to this one were served by every replica, and removed."""

    def path_of(self, version: int) -> Path:
        """Where a version is (or will be) published."""
        return self.folder / f"v{version:06d}.safetensors"

    def confirm(self, replica: int, version: int) -> None:
        """A replica serves this version; a late report of an older one changes nothing, nor does one of a replica that
        is gone."""
        if replica in self._awaited or replica in self._confirmed:
            self._awaited.discard(replica)
            self._confirmed[replica] = max(version, self._confirmed.get(replica, 0))

    def lost(self, replica: int) -> None:
        """A replica is gone: nothing is kept for it."""
        self._confirmed.pop(replica, None)
        self._awaited.discard(replica)

    def awaited(self, replica: int) -> None:
        """A replica begins (anew): until it confirms a version, everything it may be told of now is kept."""
        self._confirmed.pop(replica, None)
        self._awaited.add(replica)

    def clear(self) -> None:
        """Remove what an earlier run left behind, half-written files included."""
        for path in self.folder.glob("*.safetensors*") if self.folder.is_dir() else ():
            path.unlink(missing_ok=True)
        self.clear_partial()

    def clear_partial(self) -> None:
        """Remove what an earlier start of the learner did not write to its end. Its versions stay: a replica may be
        loading one of them."""
        for path in self.folder.glob(".*.partial") if self.folder.is_dir() else ():
            path.unlink(missing_ok=True)

    def prune(self, evaluated: Collection[int] = ()) -> list[int]:
        """Remove the versions that nobody can need any more; return them, oldest first.

        A replica that lags (a slow link, a slow load) holds back at most `MOST_KEPT` versions and those that are
        evaluated: it finds that what it wanted is gone, and goes on to a newer one.
        """
        versions = self.versions()
        if not versions:
            return []
        oldest_needed = 0 if self._awaited else min([*self._confirmed.values(), versions[-1]])
        served = [version for version in versions if version < oldest_needed]
        self.gone_through = max([self.gone_through, *served])
        left = versions[len(served) :]
        overtaken = [version for version in left[:-MOST_KEPT] if version not in evaluated]
        removed = served + overtaken
        for version in removed:
            self.path_of(version).unlink(missing_ok=True)
        return removed

    def versions(self) -> list[int]:
        """Versions that exist, oldest first."""
        if not self.folder.is_dir():
            return []
        matches = (_VERSION_FILE.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)
