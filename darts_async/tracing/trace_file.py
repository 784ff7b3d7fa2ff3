"""One process's part of the trace on disk, `<run>/trace/<name>-<start>.jsonl`: a bounded buffer and who empties it.

`put` only appends to memory. By the machine's clock a thread encodes and writes twice a second; on virtual time the
buffer is emptied when it is full, on the spot. Invariants: all files of a run's trace together stay within their share
of `limit_bytes`, whoever writes them (each looks at the folder before it writes; what several write at the same moment
may exceed it by a buffer each, which `merge` takes from its own share); when there is no room recording stops for
good, with one note and one warning in the run; a disk that fails or hangs ends the trace, never the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from itertools import count
from pathlib import Path
from typing import Final

from darts_async import clock
from darts_async.tracing.records import ENCODER, VERSION, VIRTUAL, FileOpened, Note, ProcessStarted, Record

__all__ = ["FULL", "RAW_SHARE", "SUFFIX", "TraceFile"]

_log = logging.getLogger(__name__)

SUFFIX: Final = ".jsonl"
FULL: Final = "full"
"""File that says that the warning was given."""
RAW_SHARE: Final = 0.25
"""Of `limit_bytes`. The same events take about twice as much in `trace.json`."""
_FLUSH_S: Final = 0.5
"""The most that a killed process has recorded and not written."""
_MOST_BUFFERED: Final = 1 << 16
"""Records; beyond it, as long as the disk hangs, they are dropped and counted."""
_AT_ONCE: Final = 1 << 12
"""Records of a run on virtual time between two writes."""
_MOST_STARTS: Final = 10_000
_CLOSE_S: Final = 2.0


class TraceFile:
    """Records of one process, of one role or of several."""

    def __init__(self, folder: Path, name: str, *, limit_bytes: int) -> None:
        """The folder is made when missing. name: of the role; a number follows, by which earlier starts keep theirs.

        Raises `OSError`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._descriptor, self.start = _create(folder, name)
        """Which start of this name it is."""
        self._records: deque[Record] = deque()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._over = False
        """Nothing is recorded any more."""
        self._dropped = 0
        self._num_processes = 0
        self._warning = ""
        self._threaded = clock.is_real()
        now_s = clock.now_s()
        self.origin_us = int(now_s * 1e6)
        """When it was opened, by the run's clock."""
        wall_s = time.time() if self._threaded else 0.0
        self.put(FileOpened(VERSION, _clock_name() if self._threaded else VIRTUAL, now_s, wall_s, limit_bytes))
        self._thread: threading.Thread | None = None
        if self._threaded:
            self._thread = threading.Thread(target=self._keep_writing, name="trace", daemon=True)
            self._thread.start()

    def begin_process(self, name: str, start: int) -> int:
        """A role begins; return its number in this file."""
        self._num_processes += 1
        pid = os.getpid() if self._threaded else 0
        self.put(ProcessStarted(self.now_us(), self._num_processes, name, start, pid))
        return self._num_processes

    def now_us(self) -> int:
        """Microseconds since the file was opened."""
        return int(clock.now_s() * 1e6) - self.origin_us

    def put(self, record: Record) -> None:
        """Record something. Never waits for the disk by the machine's clock."""
        if self._over:
            return
        waiting = len(self._records)
        if waiting >= _MOST_BUFFERED:
            self._dropped += 1
            return
        self._records.append(record)
        if waiting >= _AT_ONCE and not self._threaded:
            self.flush()

    def flush(self) -> None:
        """Write what is recorded."""
        with self._writing:
            if self._over:
                return
            try:
                self._write()
            except OSError as error:
                self._end(f"the trace cannot be written ({error.strerror or error}): recording has stopped")

    def take_warning(self) -> str:
        """Return what a person should be told, once; mostly nothing."""
        warning, self._warning = self._warning, ""
        return warning

    def close(self) -> None:
        """Write the rest. A disk that hangs is waited for a moment only."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                self._over = True
                return
        self.flush()
        self._over = True
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _keep_writing(self) -> None:
        while not self._closed.wait(_FLUSH_S):  # a clock: what is recorded need not wake anybody
            self.flush()

    def _write(self) -> None:
        records = [self._records.popleft() for _ in range(len(self._records))]
        if not records:
            return
        if self._dropped:
            text = f"{self._dropped} records are missing here: the disk was too slow"
            records.append(Note(self.now_us(), 1, text))
            self._dropped = 0
        data = ENCODER.encode_lines(records)
        if _bytes_in(self._folder) + len(data) <= RAW_SHARE * self._limit_bytes:
            _write_all(self._descriptor, data)
            return
        text = f"the trace is full (metrics.trace_mib = {self._limit_bytes >> 20}): recording has stopped"
        if _is_first(self._folder / FULL):
            note = Note(self.now_us(), 1, text)
            heads = [record for record in records if isinstance(record, FileOpened | ProcessStarted)]
            _write_all(self._descriptor, ENCODER.encode_lines([*heads, note]))
            self._end(text)
        else:
            self._end("")

    def _end(self, warning: str) -> None:
        self._over = True
        self._records.clear()
        self._warning = warning
        if warning:
            _log.warning("%s", warning)


def _create(folder: Path, name: str) -> tuple[int, int]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for start in count():
        try:
            return os.open(folder / f"{name}-{start}{SUFFIX}", flags, 0o644), start
        except FileExistsError:
            if start >= _MOST_STARTS:
                raise
    raise AssertionError


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _bytes_in(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _is_first(path: Path) -> bool:
    """Whether nobody has made this file before; makes it."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    except FileExistsError:
        return False
    return True


def _clock_name() -> str:
    """Two processes whose monotonic clocks agree say the same: those of a machine since it was started."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return os.uname().nodename
