"""The ledger on disk: append-only segments `<run>/ledger/000000.msgpack`, 000001, ... of framed, checksummed records.

Any reader of MessagePack streams can follow it (`ledger_frames` says how). Invariants: one process writes it; records
are only ever appended, in the order of `append`; a segment begins with its head and ends at a record; what `flush`
wrote is in the file when it returns, and what `sync` wrote survives a crash of the machine; a segment is on the disk
before the next one begins, so that only the end of the last one can ever be torn. After a write that failed nothing
more is written: the file is cut back to its last whole record, where that is possible.

Writing never runs on the event loop; one thread does all of it, in order, whoever is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

import msgspec

from darts_async.algorithms.ledger_records import LEDGER_FORMAT, LedgerRecord, RunReopened, SegmentOpened
from darts_async.errors import RunFailed
from darts_async.runtime.ledger_frames import append_frame
from darts_async.runtime.ledger_lock import LedgerLock
from darts_async.runtime.ledger_reader import LedgerReader

__all__ = ["LedgerFile"]

_log = logging.getLogger(__name__)

FLUSH_BYTES: Final = 1 << 20
SEGMENT_BYTES: Final = 16 << 20
"""A segment takes no further record once it would grow beyond this."""
_FRAME_BYTES: Final = 20
"""Most that a frame adds to a record."""


class LedgerFile:
    """The one writer of a run's ledger. Every method raises `RunFailed` when the disk does not take it."""

    def __init__(self, folder: Path, lock: LedgerLock, *, run_id: str, sequence: int, segment_bytes: int) -> None:
        """For `create` and `reopen`."""
        self._folder = folder
        self._lock = lock
        self._run_id = run_id
        self._sequence = sequence
        self._segment_bytes = segment_bytes
        self._encode = msgspec.msgpack.Encoder().encode
        self._segment = -1
        """That `append` fills; the one being written may still be an earlier one."""
        self._room = 0
        self._parts: list[tuple[int, bytearray]] = []
        """What is to be written, by segment."""
        self._buffered = 0
        self._descriptor: int | None = None
        self._written = 0
        """Bytes of the open segment, up to the last write that succeeded."""
        self._open_segment = -1
        self._failure: RunFailed | None = None
        """Of the first write that failed."""
        self._closed = False
        self._writing: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "ledger")

    @classmethod
    def create(cls, folder: Path, *, run_id: str = "", segment_bytes: int = SEGMENT_BYTES) -> Self:
        """The ledger of a new run, in a folder (made when missing) that has none. run_id: by chance if not given."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = LedgerLock(folder)
        except OSError as error:
            raise _failed(_segment_path(folder, 0), error) from error
        file = cls(folder, lock, run_id=run_id or secrets.token_hex(8), sequence=0, segment_bytes=segment_bytes)
        try:
            _refuse_another(folder)
            file._begin(0)
        except BaseException:
            file.abandon()
            raise
        return file

    @classmethod
    def reopen(
        cls,
        folder: Path,
        visit: Callable[[LedgerRecord], None] = lambda _: None,
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Self:
        """Go on with a ledger whose writer is gone; every record it has is given to `visit` first, in order.

        The unfinished write at its end, if there is one, is cut off; then a segment begins, and says that the run was
        reopened unless there was no record at all. Raises `LedgerDamaged`, and `RunFailed` while another process
        writes it.
        """
        try:
            lock = LedgerLock(folder)
        except OSError as error:
            raise _failed(folder, error) from error
        try:
            reader = LedgerReader(folder, live=False)
            any_record = False
            for record in reader:
                any_record = True
                visit(record)
            number = _cut(folder, reader)
        except OSError as error:
            lock.release()
            raise _failed(folder, error) from error
        except BaseException:
            lock.release()
            raise
        run_id = reader.run_id or secrets.token_hex(8)
        file = cls(folder, lock, run_id=run_id, sequence=reader.sequence, segment_bytes=segment_bytes)
        try:
            file._begin(number)
        except BaseException:
            file.abandon()
            raise
        if any_record:
            file.append(RunReopened(cut_bytes=reader.torn_bytes))
        return file

    @property
    def path(self) -> Path:
        """The segment that is being written."""
        return _segment_path(self._folder, max(self._open_segment, 0))

    @property
    def sequence(self) -> int:
        """Number of the next record."""
        return self._sequence

    @property
    def flush_due(self) -> bool:
        """Whether enough has gathered to be worth a write."""
        return self._buffered >= FLUSH_BYTES

    def append(self, record: LedgerRecord) -> None:
        """Add a record to what the next flush writes."""
        data = self._encode(record)
        if len(data) + _FRAME_BYTES > self._room:
            self._new_segment(self._segment + 1)
        self._frame(data)

    async def flush(self) -> None:
        """Write what was appended before this call."""
        if self._buffered or (self._writing is not None and not self._writing.done()):
            await self._submit(sync=False)

    async def sync(self) -> None:
        """Write what was appended before this call, and have it on the disk."""
        await self._submit(sync=True)

    async def close(self) -> None:
        """Sync, then close the file. Idempotent."""
        if not self._closed:
            await self.sync()
        self.abandon()

    def abandon(self) -> None:
        """Close the file without writing what was not flushed. Idempotent."""
        self._closed = True
        self._thread.shutdown()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        self._lock.release()

    # --- what is to be written --------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        self._new_segment(number)
        try:
            self._open(number)
        except OSError as error:
            raise _failed(_segment_path(self._folder, number), error) from error

    def _new_segment(self, number: int) -> None:
        self._segment = number
        self._room = self._segment_bytes
        self._parts.append((number, bytearray()))
        head = SegmentOpened(format=LEDGER_FORMAT, run_id=self._run_id, segment=number, sequence=self._sequence)
        self._frame(self._encode(head))

    def _frame(self, data: bytes) -> None:
        buffer = self._parts[-1][1]
        before = len(buffer)
        append_frame(buffer, self._sequence, data)
        self._sequence += 1
        self._room -= len(buffer) - before
        self._buffered += len(buffer) - before

    async def _submit(self, *, sync: bool) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise RunFailed(f"the ledger {self.path} is closed")
        parts, self._parts, self._buffered = self._parts, [(self._segment, bytearray())], 0
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, parts, sync)
        # A write that nobody waits for any more is still done, and its failure is met by the next one.
        self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._writing)

    # --- on the writing thread --------------------------------------------------------------------------------------

    def _write(self, parts: list[tuple[int, bytearray]], sync: bool) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            for number, data in parts:
                if number != self._open_segment:
                    self._next_file(number)
                self._write_whole(data)
            if sync:
                os.fsync(self._file)
        except OSError as error:
            self._failure = _failed(self.path, error)
            if self._descriptor is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._written)
            raise self._failure from error

    @property
    def _file(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def _write_whole(self, data: bytearray) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._written += len(data)

    def _next_file(self, number: int) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._descriptor = None
        self._open(number)

    def _open(self, number: int) -> None:
        path = _segment_path(self._folder, number)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._open_segment, self._written = number, 0
        _sync_folder(self._folder)


def _segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.msgpack"


def _refuse_another(folder: Path) -> None:
    for path in folder.glob("*.msgpack"):
        raise _failed(path, FileExistsError(errno.EEXIST, ""))


def _cut(folder: Path, reader: LedgerReader) -> int:
    """Cut an unfinished write off the last segment; return the number of the one that comes next."""
    if not reader.segments:
        return 0
    last = reader.segments[-1]
    keep = last.size - reader.torn_bytes
    if reader.torn_bytes:
        _log.warning(
            "%s: %d bytes of a record that was not written to its end are cut off at %d",
            last.path,
            reader.torn_bytes,
            keep,
        )
        os.truncate(last.path, keep)
    if not keep:
        # Not even its head was written: its number is taken again.
        last.path.unlink()
        _sync_folder(folder)
        return last.number
    descriptor = os.open(last.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return last.number + 1


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: Path, error: OSError) -> RunFailed:
    hints: dict[int | None, str] = {
        errno.ENOSPC: "the disk is full: free some space or set run.dir to another disk",
        errno.EEXIST: "it exists already: another run has written there, choose another run.name",
        errno.EDQUOT: "the disk quota is used up",
        errno.EAGAIN: "another process writes it: its run is still going on",
    }
    return RunFailed(f"the ledger {path} cannot be written: {hints.get(error.errno, error.strerror or str(error))}")
