"""One append-only file of checksummed messages, written and synced off the event loop.

Invariants: what was `put` before a `sync` that has returned survives a crash of the machine; a file is only ever
appended to, behind the last record that is whole: what a crash left torn is cut off when the file is read, before
anything is added.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from darts_async.durable import replace_file
from darts_async.errors import ProtocolError, RunFailed
from darts_async.runtime.spool_frames import pack_record, read_records
from darts_async.transport.codec import Codec, Frame

__all__ = ["SpoolFile"]

_log = logging.getLogger(__name__)
T = TypeVar("T")
_HINTS: Final[dict[int | None, str]] = {
    errno.ENOSPC: "the disk is full: free some space or set run.dir to another disk",
    errno.EDQUOT: "the disk quota is used up",
}


class SpoolFile(Generic[T]):
    """Every method raises `RunFailed` when the disk does not take it, or gives back what was never written."""

    def __init__(self, path: Path, types: Any, thread: ThreadPoolExecutor) -> None:
        """`types`: as for `Codec`. `thread`: has one worker, so that writes keep their order. Opens nothing yet."""
        self.path = path
        self._codec: Codec[T] = Codec(types)
        self._thread = thread
        self._number = 0
        self._pending: list[list[Frame]] = []
        self._descriptor: int | None = None

    def read(self, visit: Callable[[T], None]) -> None:
        """Give every record to `visit`, in order, and cut off what follows the last whole one. Blocks; before the first
        `put`. No file is an empty one."""
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
            good = self._number = 0
            for end, frames in read_records(data):
                visit(self._codec.decode([bytes(frame) for frame in frames]))  # aligned, and lets go of the rest
                good = end
                self._number += 1
            if good < len(data):
                _log.warning("%s: %d bytes that are no whole record are cut off", self.path, len(data) - good)
                os.truncate(self.path, good)
                _sync(self.path)
        except OSError as error:
            raise self._failed("read", error) from error
        except ProtocolError as error:
            raise RunFailed(f"the spool {self.path} holds what was never written there: {error}") from error

    def put(self, *messages: T) -> None:
        """Add records to what the next `sync` writes. Their arrays must not change until then."""
        self._pending += [list(self._codec.encode(message)) for message in messages]

    async def sync(self) -> None:
        """Return once everything that was put is on the disk. What was begun is finished even if this is cancelled."""
        pending, self._pending = self._pending, []
        await self._on_thread(self._write, pending)

    async def replace(self, *messages: T) -> None:
        """Let the file consist of these records alone. Either it does, or it is as it was."""
        encoded = [list(self._codec.encode(message)) for message in messages]
        await self._on_thread(self._rewrite, encoded)

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    async def _on_thread(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments))

    # --- on the thread ----------------------------------------------------------------------------------------------

    def _write(self, messages: Sequence[Sequence[Frame]]) -> None:
        if not messages:
            return
        data = b"".join(pack_record(self._number + place, frames) for place, frames in enumerate(messages))
        try:
            view = memoryview(data)
            descriptor = self._open()
            while view:
                view = view[os.write(descriptor, view) :]
            os.fdatasync(descriptor)
        except OSError as error:
            raise self._failed("written", error) from error
        self._number += len(messages)

    def _rewrite(self, messages: Sequence[Sequence[Frame]]) -> None:
        self.close()
        try:
            replace_file(self.path, b"".join(pack_record(number, frames) for number, frames in enumerate(messages)))
        except OSError as error:
            raise self._failed("written", error) from error
        self._number = len(messages)

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            flags |= 0 if self._number else os.O_TRUNC
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, flags, 0o644)
            _sync(self.path.parent)
        return self._descriptor

    def _failed(self, what: str, error: OSError) -> RunFailed:
        reason = _HINTS.get(error.errno, error.strerror or str(error))
        return RunFailed(f"the spool {self.path} cannot be {what}: {reason}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
