"""A run's ledger read back, whole and in order, in memory that does not grow with it; also while it is written.

What is read is what was there at the opening: segments that come later, and bytes that the last one gains, are left
for the next reader. Every record yielded is intact and in its place, and the segments are all there, or `LedgerDamaged`
names file and offset. The one thing that is no damage is the beginning of a record at the end of the last segment
(`torn_bytes`): a write that goes on, or that a crash cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from darts_async.algorithms.ledger_records import LEDGER_FORMAT, LedgerRecord, SegmentOpened
from darts_async.errors import LedgerDamaged
from darts_async.runtime.ledger_frames import FrameReader
from darts_async.runtime.ledger_lock import LedgerLock

__all__ = ["LedgerReader", "Segment"]

_NAME: Final = re.compile(r"(\d{6,})\.msgpack")
_Stored: TypeAlias = LedgerRecord | SegmentOpened
_decode: Final = msgspec.msgpack.Decoder(_Stored).decode


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the ledger."""

    number: int
    path: Path
    size: int


def _list_segments(folder: Path) -> list[Segment]:
    """The segments in order, with their sizes now. Raises `LedgerDamaged` when one is missing, `OSError`."""
    found = sorted((int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))
    for due, (number, path) in enumerate(found):
        if number != due:
            raise LedgerDamaged(path, 0, f"segment {due} is missing before it")
    # All but the last of these are complete: a segment begins when the one before it is on the disk.
    return [Segment(number, path, path.stat().st_size) for number, path in found]


class LedgerReader:
    """Iterating gives the ledger's records. Raises `LedgerDamaged`; `OSError` when a file cannot be read."""

    def __init__(self, folder: Path, *, live: bool | None = None) -> None:
        """`live`: somebody writes it; found out from the writer's lock when not given."""
        self.live = LedgerLock.is_taken(folder) if live is None else live
        self.segments = _list_segments(folder)
        self.total_bytes = sum(segment.size for segment in self.segments)
        self.bytes_read = 0
        """Up to the last record given, for showing how far it is."""
        self.torn_bytes = 0
        """Behind the last record of the last segment; known when all is read."""
        self.run_id = ""
        self.sequence = 0
        """Number of the record after the last one given; the heads of segments count."""

    def __iter__(self) -> Iterator[LedgerRecord]:
        before = 0
        for segment in self.segments:
            frames = FrameReader(segment.path, segment.size, self.sequence)
            head = True
            start = 0
            for data in frames:
                record = self._decoded(segment, start, data)
                start = frames.good
                self.sequence = frames.sequence
                self.bytes_read = before + start
                if head:
                    self._check_head(segment, record)
                    head = False
                elif isinstance(record, SegmentOpened):
                    raise LedgerDamaged(segment.path, start, "the head of a segment stands in the middle of one")
                else:
                    yield record
            before += segment.size
            self._check_end(segment, frames, head=head)

    def _decoded(self, segment: Segment, offset: int, data: bytes) -> _Stored:
        try:
            record: _Stored = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            what = f"the record there is none of format {LEDGER_FORMAT}: {error}"
            raise LedgerDamaged(segment.path, offset, what) from error
        return record

    def _check_head(self, segment: Segment, record: _Stored) -> None:
        if not isinstance(record, SegmentOpened):
            raise LedgerDamaged(segment.path, 0, "the segment has no head")
        if record.format != LEDGER_FORMAT:
            raise LedgerDamaged(
                segment.path, 0, f"the ledger has format {record.format}, this version reads format {LEDGER_FORMAT}"
            )
        self.run_id = self.run_id or record.run_id
        if (record.run_id, record.segment) != (self.run_id, segment.number):
            what = f"it is segment {record.segment} of ledger {record.run_id}, not {segment.number} of {self.run_id}"
            raise LedgerDamaged(segment.path, 0, what)

    def _check_end(self, segment: Segment, frames: FrameReader, *, head: bool) -> None:
        last = segment is self.segments[-1]
        if frames.fault:
            raise LedgerDamaged(segment.path, frames.good, frames.fault)
        if frames.incomplete and not last:
            raise LedgerDamaged(segment.path, frames.good, "the segment ends in the middle of a record")
        if frames.incomplete and not frames.is_torn():
            raise LedgerDamaged(segment.path, frames.good, "what stands there is no record, nor the beginning of one")
        if head and not last:
            raise LedgerDamaged(segment.path, 0, "the segment is empty")
        if last:
            self.torn_bytes = segment.size - frames.good
