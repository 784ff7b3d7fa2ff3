"""Weights for a generator that does not see the folder they are published in: fetched from the launcher, part by part.

Invariants: a path is handed out only when the whole file is there, with the header and the length of a safetensors
file; at most the version in use and the one that is coming lie in the folder; nothing larger than a bound is fetched.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from darts_async.engines.weights_file import read_shapes
from darts_async.errors import LinkBroken, ProtocolError
from darts_async.messages import PolicyUpdate
from darts_async.runtime.join_link import JoinClient
from darts_async.runtime.topology import FarWeightsPlace

__all__ = ["FarWeights"]


class FarWeights:
    """Fetches for one replica. `weights_of` is what a generator's links ask."""

    def __init__(self, place: FarWeightsPlace, client: JoinClient, part_timeout_s: float) -> None:
        self._folder = Path(place.folder)
        self._max_bytes = place.max_bytes
        self._client = client
        self._timeout_s = part_timeout_s
        self._latest: Path | None = None

    async def weights_of(self, update: PolicyUpdate) -> str:
        """Fetch a version; return its path here. Raises `ProtocolError` when it is gone or no safetensors file,
        `LinkBroken` when the launcher does not answer."""
        if not update.weights:
            return ""
        path = self._folder / f"v{update.version:06d}.safetensors"
        partial = self._folder / f".{path.name}.partial"
        await asyncio.to_thread(self._remove_old)
        offset, total, stamp = 0, 1, ""
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            while offset < total:
                part = await self._client.fetch(update.version, offset, self._timeout_s)
                if part is None:
                    raise ProtocolError(f"version {update.version} of the policy is not published (any more)")
                if part.total > self._max_bytes:
                    raise ProtocolError(
                        f"version {update.version} of the policy would be {part.total} bytes, this model has at most "
                        f"{self._max_bytes}"
                    )
                if offset and part.stamp != stamp:  # a learner that was started anew has published it again
                    offset, total = 0, 1
                    file.seek(0)
                    file.truncate()
                    continue
                total, stamp = part.total, part.stamp
                try:
                    await asyncio.to_thread(file.write, part.data)
                except OSError as error:
                    raise LinkBroken(f"{partial}: {error.strerror or error}") from error
                offset += len(part.data)
        await asyncio.to_thread(read_shapes, partial)
        partial.replace(path)
        self._latest = path
        return str(path)

    async def close(self) -> None:
        """Fetch nothing any more."""
        await self._client.close()

    def _remove_old(self) -> None:
        """What the engine has loaded before the latest version is of no use, nor is what was not fetched to its end."""
        for path in (*self._folder.glob("v*.safetensors"), *self._folder.glob(".*.partial")):
            if path != self._latest:
                path.unlink(missing_ok=True)
