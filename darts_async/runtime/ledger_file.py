"""The ledger on disk: an append-only stream of MessagePack maps, `<run>/ledger/000000.msgpack`.

Any reader of MessagePack streams can follow it (`msgpack.Unpacker`); each map says what it is under `kind`. Invariants:
the file is new and ours alone (opened exclusively), records are only ever appended, and what `flush` wrote is in the
file when it returns. Record order is the order of `append`.

Flushed at step boundaries and at the end, and in between when `flush_due`. Not synced to the disk yet: a crash of the
machine, unlike one of the run, can lose the last steps.
"""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Final

import msgspec

from darts_async.algorithms.ledger_records import LedgerRecord
from darts_async.errors import RunFailed

__all__ = ["LedgerFile"]

FLUSH_BYTES: Final = 1 << 20


class LedgerFile:
    """The one writer of a run's ledger. Every method raises `RunFailed` when the disk does not take it."""

    def __init__(self, folder: Path) -> None:
        """Create `000000.msgpack` in `folder` (made when missing)."""
        self.path = folder / "000000.msgpack"
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._writing = asyncio.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise self._failed(error) from error

    @property
    def flush_due(self) -> bool:
        """Whether enough has gathered to be worth a write."""
        return len(self._buffer) >= FLUSH_BYTES

    def append(self, record: LedgerRecord) -> None:
        """Add a record to what the next flush writes."""
        self._encoder.encode_into(record, self._buffer, -1)

    async def flush(self) -> None:
        """Write what was appended before this call. The write itself leaves the event loop."""
        async with self._writing:
            data, self._buffer = self._buffer, bytearray()
            if data:
                await asyncio.to_thread(self._write, data)

    async def close(self) -> None:
        """Flush, then close the file. Idempotent."""
        await self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Close the file without writing. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _write(self, data: bytearray) -> None:
        if self._descriptor is None:
            raise RunFailed(f"the ledger {self.path} is closed")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RunFailed:
        hints: dict[int | None, str] = {
            errno.ENOSPC: "the disk is full: free some space or set run.dir to another disk",
            errno.EEXIST: "it exists already: another run has written there, choose another run.name",
            errno.EDQUOT: "the disk quota is used up",
        }
        return RunFailed(
            f"the ledger {self.path} cannot be written: {hints.get(error.errno, error.strerror or str(error))}"
        )
