"""`trace.json`, from what the roles have left under `<run>/trace/`, in order of time; the Chrome trace event format.

May be called at any time and again: while the run goes on (it has what was written so far), after its launcher was
killed, with files of a joined generator copied in. Invariants: what has the name `trace.json` is whole and valid JSON,
whatever the files hold; memory goes with the number of groups, not of events; it takes no more than `limit_bytes` of
the disk together with the files.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from darts_async.durable import partial_of
from darts_async.tracing.alignment import offsets_us, read_starts
from darts_async.tracing.events import Event, Flows, Translator
from darts_async.tracing.records import DECODER, ENCODER, VERSION, FileOpened, Note, Record, Span, has_flows
from darts_async.tracing.trace_file import SUFFIX

__all__ = ["FOLDER", "RESULT", "Merged", "merge_trace"]

FOLDER: Final = "trace"
RESULT: Final = "trace.json"
_MOST_LINE: Final = 1 << 14
_BUFFER: Final = 1 << 18
_SEPARATOR: Final = b",\n"
_END_BYTES: Final = 512
"""For the last note, and what closes the file."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What was written."""

    path: Path
    events: int
    skipped: int
    """Lines that are no records: of a process that was killed while it wrote."""
    notes: tuple[str, ...]
    """What a person should know of it: that it is not all."""


def merge_trace(run_folder: Path) -> Merged | None:
    """Write a run's `trace.json`; None if it has left no trace. Raises `OSError`; then the old one is as it was."""
    with contextlib.ExitStack() as stack:
        files = [
            file
            for path in sorted((run_folder / FOLDER).glob(f"*{SUFFIX}"))
            if (file := _RawFile.open(path, stack)) is not None
        ]
        if not files:
            return None
        offsets = offsets_us([file.head for file in files], read_starts(run_folder / "starts.json"))
        flows = Flows()
        for number, (file, offset) in enumerate(zip(files, offsets, strict=True)):
            for span, first_point in file.spans_with_flows():
                flows.add(number, offset, span, first_point)
        limit = max(file.head.limit_bytes for file in files) - sum(file.size for file in files)
        path = run_folder / RESULT
        partial = partial_of(path)
        partial.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(partial, flags, 0o644), "wb", _BUFFER) as sink:
                writer = _Writer(sink, limit, run_folder.name)
                _translate(files, offsets, Translator(flows), writer)
                writer.end()
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return Merged(path, writer.num_events, sum(file.skipped for file in files), tuple(writer.notes))


def _translate(files: list[_RawFile], offsets: list[int], translator: Translator, writer: _Writer) -> None:
    def stream(number: int) -> Iterator[tuple[int, int, int, Record, int]]:
        offset = offsets[number]
        for order, (record, first_point) in enumerate(files[number].records()):
            if not isinstance(record, FileOpened):
                yield offset + record.ts, number, order, record, first_point

    # A file's own order stays as it is: a record is behind those that were made before it, whatever its time.
    streams = [stream(number) for number in range(len(files))]
    for _, number, _, record, first_point in heapq.merge(*streams) if len(streams) > 1 else streams[0]:
        assert not isinstance(record, FileOpened)
        if isinstance(record, Note):
            writer.notes.append(record.text)
        for event in translator.events(number, offsets[number], record, first_point):
            if not writer.write(event):
                text = "the rest does not fit into metrics.trace_mib"
                writer.cut(text, translator.cut(offsets[number] + record.ts, text))
                return


class _RawFile:
    """One file, read from its beginning to where it ended when it was opened."""

    def __init__(self, file: BinaryIO, head: FileOpened) -> None:
        self.head = head
        self.size = os.fstat(file.fileno()).st_size
        self.skipped = 0
        self._file = file

    @classmethod
    def open(cls, path: Path, stack: contextlib.ExitStack) -> _RawFile | None:
        """None if it does not begin as such a file does. Raises `OSError`."""
        file = stack.enter_context(os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb"))
        head = _decoded(file.readline(_MOST_LINE))
        return cls(file, head) if isinstance(head, FileOpened) and head.version == VERSION else None

    def spans_with_flows(self) -> Iterator[tuple[Span, int]]:
        """Those alone, each with the number of its first flow point."""
        number = 0
        for line in self._lines():
            if has_flows(line) and isinstance(span := _decoded(line), Span):
                yield span, number
                number += len(span.flows or ())

    def records(self) -> Iterator[tuple[Record, int]]:
        """All of them; spans with the number of their first flow point."""
        self.skipped = number = 0
        for line in self._lines():
            record = _decoded(line)
            if record is None:
                self.skipped += 1
                continue
            yield record, number
            if isinstance(record, Span):
                number += len(record.flows or ())

    def _lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        left = self.size
        while left > 0 and (line := self._file.readline(min(_MOST_LINE, left))):
            left -= len(line)
            yield line


def _decoded(line: bytes) -> Record | None:
    try:
        record: Record = DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return record


class _Writer:
    """The file, event by event, and its end whenever that comes."""

    def __init__(self, sink: BinaryIO, limit_bytes: int, run: str) -> None:
        self.num_events = 0
        self.notes: list[str] = []
        self._sink = sink
        self._left = limit_bytes - _END_BYTES
        self._write(b'{"displayTimeUnit":"ms","otherData":' + ENCODER.encode({"run": run}) + b',"traceEvents":[')

    def write(self, event: Event) -> bool:
        """Append one; False when there is no room for it."""
        data = ENCODER.encode(event)
        if len(data) + len(_SEPARATOR) > self._left:
            return False
        self._append(data)
        return True

    def cut(self, text: str, events: list[Event]) -> None:
        """There was no room; these say so."""
        self.notes.append(text)
        for event in events:
            self._append(ENCODER.encode(event))

    def end(self) -> None:
        """Nothing follows."""
        self._write(b"\n]}\n")

    def _append(self, data: bytes) -> None:
        self._write((_SEPARATOR if self.num_events else b"\n") + data)
        self.num_events += 1

    def _write(self, data: bytes) -> None:
        self._left -= len(data)
        self._sink.write(data)
