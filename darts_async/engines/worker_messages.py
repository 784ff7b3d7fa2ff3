"""What the learner tells its worker processes, and how that goes through a pipe. No torch.

Messages are those of the project's codec (typed, bounded, validated, never pickled). On the pipe each is the number of
its frames (uint32), their sizes (uint64 each), then the frames; all little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import IO, Annotated, Final, Literal, TypeAlias

import msgspec

from darts_async.errors import ProtocolError
from darts_async.messages import LongText, Message, NonNegative, TrainGroup
from darts_async.transport.codec import DEFAULT_MAX_BYTES, Frame

__all__ = ["Action", "Command", "Done", "FromWorker", "Here", "ToWorker", "WorkerSetup", "read_frames", "write_frames"]

Action: TypeAlias = Literal[
    "accumulate", "apply_step", "publish", "save_checkpoint", "save_recovery", "load_checkpoint", "abandon", "close"
]


class WorkerSetup(Message, frozen=True, kw_only=True):
    """The first message to a worker."""

    rank: Annotated[int, msgspec.Meta(ge=1, le=63)]
    processes: Annotated[int, msgspec.Meta(ge=2, le=64)]
    store: LongText
    """Path of the file over which the processes meet."""
    config: Annotated[str, msgspec.Meta(max_length=1 << 20)]
    """The resolved config as JSON."""


class Command(Message, frozen=True, kw_only=True):
    """Call this method of the trainer, as rank 0 does now; `accumulate` with the groups sent since the last one."""

    action: Action
    path: LongText = ""
    num_groups: NonNegative = 0


class Here(Message, frozen=True, kw_only=True):
    """The worker has its libraries loaded and meets the others next."""


class Done(Message, frozen=True, kw_only=True):
    """The worker has loaded the policy, or carried a command out. One that cannot ends, with the reason in its log."""


ToWorker: TypeAlias = WorkerSetup | TrainGroup | Command
FromWorker: TypeAlias = Here | Done

_MAX_FRAMES: Final = 64
_COUNT: Final = struct.Struct("<I")


def write_frames(pipe: IO[bytes], frames: Sequence[Frame]) -> None:
    """Write one message. Raises `OSError` when nobody reads."""
    pipe.write(_COUNT.pack(len(frames)) + struct.pack(f"<{len(frames)}Q", *map(len, frames)))
    pipe.writelines(frames)  # type: ignore[arg-type] # any buffer will do
    pipe.flush()


def read_frames(pipe: IO[bytes]) -> list[Frame] | None:
    """Read one message's frames; None where the stream ends. Raises `ProtocolError` for sizes beyond the bounds."""
    header = _read(pipe, _COUNT.size)
    if header is None:
        return None
    (count,) = _COUNT.unpack(header)
    if not 1 <= count <= _MAX_FRAMES:
        raise ProtocolError(f"a worker's pipe: a message of {count} frames")
    lengths = _read(pipe, 8 * count)
    if lengths is None:
        return None
    sizes = struct.unpack(f"<{count}Q", lengths)
    if sum(sizes) > DEFAULT_MAX_BYTES:
        raise ProtocolError(f"a worker's pipe: a message of {sum(sizes)} bytes is above {DEFAULT_MAX_BYTES}")
    frames: list[Frame] = []
    for size in sizes:
        frame = _read(pipe, size)
        if frame is None:
            return None
        frames.append(frame)
    return frames


def _read(pipe: IO[bytes], size: int) -> bytes | None:
    data = pipe.read(size)
    return data if len(data) == size else None
