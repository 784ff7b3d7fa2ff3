"""The spool's bytes: records one after the other, each the frames of one message, counted and checksummed. Pure.

A record is a head (mark, number within its file, length and CRC-32 of the body, all little-endian) and a body: how many
frames there are, their sizes, the frames. Invariant: `read_records` gives records that were written whole, in order and
without a gap, and stops at the first byte of which that cannot be said; nothing is built that is larger than the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from darts_async.transport.codec import Frame

__all__ = ["pack_record", "read_records"]

_MARK: Final = b"DSP1"
_HEAD: Final = struct.Struct("<4sIQI")
"""Mark, number, bytes of the body, checksum."""
_COUNT: Final = struct.Struct("<I")
_MAX_FRAMES: Final = 64


def pack_record(number: int, frames: Sequence[Frame]) -> bytes:
    """Return record `number` of a file as bytes. Raises `ValueError` for more frames than are read back."""
    if not 1 <= len(frames) <= _MAX_FRAMES:
        raise ValueError(f"a record of {len(frames)} frames")
    sizes = struct.pack(f"<{len(frames)}Q", *map(len, frames))
    body = b"".join([_COUNT.pack(len(frames)), sizes, *frames])  # type: ignore[list-item] # any buffer will do
    return _HEAD.pack(_MARK, number, len(body), _checksum(number, body)) + body


def read_records(data: bytes) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield each record as (offset behind it, frames: views of `data`), up to the first that is not whole and right."""
    view = memoryview(data)
    start = number = 0
    while len(view) - start >= _HEAD.size:
        mark, found, size, checksum = _HEAD.unpack_from(view, start)
        body = view[start + _HEAD.size : start + _HEAD.size + size]
        if mark != _MARK or found != number or len(body) != size or checksum != _checksum(number, body):
            return
        frames = _frames(body)
        if frames is None:
            return
        start += _HEAD.size + size
        number += 1
        yield start, frames


def _frames(body: memoryview) -> list[memoryview] | None:
    if len(body) < _COUNT.size:
        return None
    (count,) = _COUNT.unpack_from(body)
    at = _COUNT.size + 8 * count
    if not 1 <= count <= _MAX_FRAMES or len(body) < at:
        return None
    frames = []
    for size in struct.unpack_from(f"<{count}Q", body, _COUNT.size):
        frames.append(body[at : at + size])
        at += size
    return frames if at == len(body) else None


def _checksum(number: int, body: bytes | memoryview) -> int:
    return zlib.crc32(body, number)
