"""A file of the ledger, byte by byte: MessagePack arrays `[sequence, checksum, record]`, one after the other.

`record` is a binary that holds the record's own MessagePack map; `checksum` is the CRC-32 of that binary, begun from
the sequence number, so that neither a flipped bit nor a record in the wrong place goes unseen. Whoever reads the stream
needs a `msgpack.Unpacker` and nothing else. Reading is bounded: no object of more than `MAX_RECORD_BYTES` is built.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import msgspec

from darts_async.algorithms.ledger_records import LEDGER_FORMAT

__all__ = ["MAX_RECORD_BYTES", "FrameReader", "append_frame"]

MAX_RECORD_BYTES: Final = 1 << 20
"""Of one record; the largest, a step of 65,536 groups, takes 0.6 MB."""
CHUNK_BYTES: Final = 1 << 18
_CRC_BITS: Final = 0xFFFFFFFF
_HEAD_BYTES: Final = 20
"""Most that stands before the record's bytes: array 1, sequence 9, checksum 5, binary 5."""
_FRAME_BYTE: Final = b"\x93"
"""MessagePack's array of three: every frame begins with it."""

_LENGTH_BYTES: Final = {b"\xc4": 1, b"\xc5": 2, b"\xc6": 4}
"""Of MessagePack's three kinds of binary, how long the length is."""
_ALIEN: Final = f"no record of a ledger of format {LEDGER_FORMAT} is there"

_encode_into = msgspec.msgpack.Encoder().encode_into


def append_frame(buffer: bytearray, sequence: int, record: bytes) -> None:
    """Add a frame to the end of a buffer. Raises `ValueError` for a record that no reader would take."""
    if len(record) > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {len(record)} bytes is more than the {MAX_RECORD_BYTES} that are read back")
    _encode_into((sequence, _checksum(sequence, record), record), buffer, -1)


class FrameReader:
    """The frames of one file, from its first byte up to `size`.

    Iterating gives the records' bytes. It stops at the end, or at the first thing that is no intact frame: then `fault`
    says what is wrong there, at `good` bytes, or `incomplete` is set when the bytes just end in the middle of a frame.
    """

    def __init__(self, path: Path, size: int, sequence: int) -> None:
        """`sequence`: number of the first frame. Iterating raises `OSError` when the file cannot be read."""
        self.path = path
        self.sequence = sequence
        """Of the next frame."""
        self.good = 0
        """Bytes up to the end of the last intact frame."""
        self.fault = ""
        self.incomplete = False
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        unpacker = _unpacker()
        read = 0
        with self.path.open("rb") as file:
            while not self.fault and (chunk := file.read(min(CHUNK_BYTES, self._size - read))):
                read += len(chunk)
                unpacker.feed(chunk)
                while (frame := self._next(unpacker)) is not None:
                    if not self._is_due(frame):
                        self.fault = self._what_is_wrong(frame)
                        break
                    self.sequence += 1
                    self.good = unpacker.tell()
                    yield frame[2]
        if read < self._size and not self.fault:
            self.fault = f"the file has become shorter than the {self._size} bytes it had: read it again"
        self.incomplete = not self.fault and self.good < read

    def is_torn(self) -> bool:
        """Whether the bytes behind `good` are the beginning of the next frame: of one unfinished write.

        They are not when an intact later frame is among them: then a damaged length only makes it look so.
        """
        if not self.incomplete:
            return False
        with self.path.open("rb") as file:
            file.seek(self.good)
            rest = file.read(self._size - self.good)
        if not self._begins_frame(rest):
            return False
        start = rest.find(_FRAME_BYTE, 1)
        while start >= 0:
            if self._is_later_frame(rest, start):
                return False
            start = rest.find(_FRAME_BYTE, start + 1)
        return True

    def _next(self, unpacker: Any) -> Any:
        """The next object on the stream; None when more bytes are needed, or the stream is no MessagePack of ours."""
        try:
            return unpacker.unpack()
        except msgpack.OutOfData:
            return None
        except (ValueError, msgpack.UnpackException):
            self.fault = _ALIEN
            return None

    def _is_due(self, frame: Any) -> bool:
        return (
            type(frame) is tuple
            and len(frame) == 3
            and type(frame[0]) is int
            and type(frame[2]) is bytes
            and frame[0] == self.sequence
            and frame[1] == _checksum(frame[0], frame[2])
        )

    def _what_is_wrong(self, frame: Any) -> str:
        match frame:
            case (int() as sequence, int(), bytes()) if sequence != self.sequence:
                return f"record {sequence} is where {self.sequence} was due: some are missing, doubled or swapped"
            case (int() as sequence, int(), bytes()):
                return f"record {sequence} does not match its checksum"
        return _ALIEN

    def _begins_frame(self, rest: bytes) -> bool:
        head = _unpacker()
        head.feed(rest[:_HEAD_BYTES])
        try:
            if head.read_array_header() != 3 or head.unpack() != self.sequence or not isinstance(head.unpack(), int):
                return False
        except msgpack.OutOfData:
            return True
        except (ValueError, msgpack.UnpackException):
            return False
        kind, length = rest[head.tell() : head.tell() + 1], rest[head.tell() + 1 :]
        width = _LENGTH_BYTES.get(kind, 0)
        return not kind or (width > 0 and int.from_bytes(length[:width]) <= MAX_RECORD_BYTES)

    def _is_later_frame(self, rest: bytes, start: int) -> bool:
        head = _unpacker()
        head.feed(rest[start : start + _HEAD_BYTES])
        try:
            head.read_array_header()
            sequence = head.unpack()
            if not isinstance(sequence, int) or not self.sequence <= sequence <= self.sequence + len(rest):
                return False
            whole = _unpacker()
            whole.feed(rest[start : start + MAX_RECORD_BYTES + _HEAD_BYTES])
            sequence, checksum, record = whole.unpack()
            return isinstance(record, bytes) and bool(checksum == _checksum(sequence, record))
        except (ValueError, TypeError, msgpack.UnpackException):
            return False


def _checksum(sequence: int, record: bytes) -> int:
    return zlib.crc32(record, sequence & _CRC_BITS)


def _unpacker() -> Any:
    return msgpack.Unpacker(
        raw=True,
        use_list=False,
        max_buffer_size=MAX_RECORD_BYTES + 2 * CHUNK_BYTES,
        max_bin_len=MAX_RECORD_BYTES,
        max_array_len=3,
        max_str_len=0,
        max_map_len=0,
        max_ext_len=0,
    )
