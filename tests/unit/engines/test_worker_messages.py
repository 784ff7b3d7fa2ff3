"""Messages through a pipe: what was written, in order; nothing beyond the bounds, nothing of what was cut off."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async.engines.worker_messages import Command, ToWorker, WorkerSetup, read_frames, write_frames
from darts_async.errors import ProtocolError
from darts_async.transport.codec import DEFAULT_MAX_BYTES, Codec


@given(
    messages=st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=64), max_size=4), cut=st.integers(0, 300)
)
def test_whole_messages_only(messages: list[list[bytes]], cut: int) -> None:
    pipe, ends = io.BytesIO(), []
    for frames in messages:
        write_frames(pipe, frames)
        ends.append(pipe.tell())
    whole = io.BytesIO(pipe.getvalue()[:cut])
    got = []
    while (frames_read := read_frames(whole)) is not None:
        got.append(frames_read)
    assert got == [frames for frames, end in zip(messages, ends, strict=True) if end <= cut]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (struct.pack("<I", 0), "a message of 0 frames"),
        (struct.pack("<I", 65), "a message of 65 frames"),
        (struct.pack("<IQ", 1, DEFAULT_MAX_BYTES + 1), f"a message of {DEFAULT_MAX_BYTES + 1} bytes"),
        (struct.pack("<IQQ", 2, 1 << 63, 1 << 63), "a message of 18446744073709551616 bytes"),
    ],
)
def test_sizes_beyond_the_bounds_are_refused_before_they_are_read(head: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        read_frames(io.BytesIO(head))


def test_a_worker_is_told_what_exists_only() -> None:
    codec: Codec[ToWorker] = Codec(ToWorker)
    sent = Command(action="accumulate", num_groups=3)
    got = codec.decode(codec.encode(sent))
    assert isinstance(got, Command) and (got.action, got.num_groups) == ("accumulate", 3)
    odd = [bytes(codec.encode(sent)[0]).replace(b"accumulate", b"accumulatf")]
    with pytest.raises(ProtocolError, match="Command refused"):
        codec.decode(odd)
    rank_0 = WorkerSetup(rank=0, processes=2, store="/x", config="{}")
    with pytest.raises(ProtocolError, match="WorkerSetup refused"):
        codec.decode(codec.encode(rank_0))
