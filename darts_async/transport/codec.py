"""Messages to frames and back: MessagePack for the small parts, one raw frame for every array.

Frame 0 is the message (`msgspec`, tagged by type name). An `np.ndarray` field stands in it as `[dtype, length, frame]`
and its bytes are the frame of that number, taken from and viewed in the buffers as they are: no array is copied here.

Invariant: `decode` returns a message that its type allows, or raises `ProtocolError`; whatever the bytes were. It is
strict: unknown types and fields, a dtype off the list, a length that is not the announced one, a frame that is missing,
left over, used twice or out of order, and more bytes than `max_bytes` are all refused.

A codec is for one event loop (it keeps the frames of the message at hand) and may serve many links there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, get_args

import msgspec
import numpy as np

from darts_async.errors import ProtocolError

if TYPE_CHECKING:
    import zmq

T = TypeVar("T")


Frame: TypeAlias = "bytes | memoryview | zmq.Frame"
"""What travels: a contiguous buffer whose `len()` is its size in bytes."""

DEFAULT_MAX_BYTES: Final = 256 << 20
"""Bound on one message, all frames together: far above any real one (8 responses of 32 k tokens make 2 MiB)."""

_DTYPES: Final[dict[object, np.dtype[Any]]] = {code: np.dtype(code) for code in ("<i4", "<i8", "<f4", "|b1", "|u1")}
_CODES: Final[dict[np.dtype[Any], str]] = {dtype: str(code) for code, dtype in _DTYPES.items()}
_BOOL: Final = np.dtype(np.bool_)
_UINT8: Final = np.dtype(np.uint8)
_BAD_INPUT: Final = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    MemoryError,
    BufferError,
)


_LONG_HEAD: Final = 1 << 16
"""Of a message, the first frame: nearly all are of a few hundred bytes."""
_REFERENCE_BYTES: Final = 32
"""Of an array in the first frame; the longest is of 17."""


class _Head(msgspec.Struct):
    """Of any message, the one field that says what it is."""

    type: str


_HEAD: Final = msgspec.msgpack.Decoder(_Head)


class Codec(Generic[T]):
    """Encodes and decodes the messages of one link, a union of `msgspec.Struct` types (or a single one).

    `last_bytes` is the size of the message that was encoded or decoded last, all frames together.
    """

    def __init__(self, types: Any, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.types: frozenset[type] = frozenset(get_args(types) or (types,))
        self.max_bytes = max_bytes
        self.last_bytes = 0
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._put_array)
        self._decoder = msgspec.msgpack.Decoder(types, dec_hook=self._get_array)
        self._references = _references_of(self.types)
        self._outgoing: list[Frame] = []
        self._incoming: Sequence[Frame] = ()
        self._used = 0

    def __repr__(self) -> str:
        return f"Codec({' | '.join(sorted(kind.__name__ for kind in self.types))})"

    def encode(self, message: T) -> list[Frame]:
        """Return the message's frames. They view its arrays: those must not change until the message is sent.

        Raises `ProtocolError` for a type that is not the link's, a value that cannot travel (an array that is not 1-d,
        contiguous and of a listed dtype; a number of numpy's), and a message above `max_bytes`.
        """
        kind = type(message)
        if kind not in self.types:
            raise ProtocolError(f"{self!r} does not carry {kind.__name__}")
        frames: list[Frame] = [b""]
        self._outgoing = frames
        try:
            frames[0] = self._encoder.encode(message)
        except _BAD_INPUT as error:
            raise ProtocolError(f"{kind.__name__} cannot be sent: {error}") from error
        size = self.last_bytes = sum(map(len, frames))
        if size > self.max_bytes:
            raise ProtocolError(f"{kind.__name__} of {size} bytes is above the bound of {self.max_bytes} bytes")
        return frames

    def decode(self, frames: Sequence[Frame]) -> T:
        """Return the message; its arrays are read-only views of the frames.

        Raises `ProtocolError`, with the type's name where there is one, for anything that `encode` would not have sent.
        """
        size = self.last_bytes = sum(map(len, frames))
        if size > self.max_bytes:
            raise ProtocolError(f"{self!r}: a message of {size} bytes is above the bound of {self.max_bytes} bytes")
        if not frames:
            raise ProtocolError(f"{self!r}: a message without frames")
        self._incoming = frames
        self._used = 1
        try:
            if len(frames[0]) > _LONG_HEAD:
                self._check_references(frames[0])
            message: T = self._decoder.decode(frames[0])  # type: ignore[arg-type] # any buffer will do
        except _BAD_INPUT as error:
            raise ProtocolError(f"{_announced_type(frames[0])} refused by {self!r}: {error}") from error
        finally:
            self._incoming = ()
        if self._used != len(frames):
            raise ProtocolError(
                f"{type(message).__name__} came in {len(frames)} frames where it refers to {self._used}"
            )
        return message

    def _check_references(self, head: Frame) -> None:
        """Arrays are references. msgspec builds the objects of whatever is in their place before it asks `_get_array`:
        2.5 s and a gigabyte for 28 MB of bytes."""
        found = self._references.decode(head)  # type: ignore[arg-type] # any buffer will do
        if any(len(getattr(found, name)) > _REFERENCE_BYTES for name in found.__struct_fields__):
            raise ValueError("an array must be a reference [dtype, length, frame]")

    def _put_array(self, value: object) -> tuple[str, int, int]:
        if type(value) is not np.ndarray:
            raise TypeError(f"a {type(value).__name__} cannot travel; make it a plain Python value")
        code = _CODES.get(value.dtype)
        if code is None or value.ndim != 1 or not value.flags.c_contiguous:
            raise TypeError(
                f"an array must be 1-d, contiguous and one of {list(_CODES.values())}; "
                f"got {value.dtype.str} {value.shape}, strides {value.strides}"
            )
        frames = self._outgoing
        # A view without elements cannot be cast to bytes.
        frames.append(value.data.cast("B") if value.size else b"")
        return code, value.size, len(frames) - 1

    def _get_array(self, kind: type, reference: object) -> np.ndarray:
        # Errors are ValueErrors here: msgspec adds the field's path and makes them its own ValidationError.
        if kind is not np.ndarray or type(reference) is not list or len(reference) != 3:
            raise ValueError("an array must be a reference [dtype, length, frame]")
        code, length, index = reference
        dtype = _DTYPES.get(code) if type(code) is str else None
        if dtype is None:
            raise ValueError(f"dtype {code!r:.40} is not one of {list(_DTYPES)}")
        if type(index) is not int or index != self._used:
            raise ValueError(f"frame {index!r:.40} where frame {self._used} is next (each once, in order)")
        frames = self._incoming
        if index >= len(frames):
            raise ValueError(f"frame {index} is missing: the message has {len(frames)}")
        self._used = index + 1
        array = np.frombuffer(frames[index], dtype)  # type: ignore[arg-type] # any buffer will do
        if type(length) is not int or array.size != length:
            raise ValueError(f"{array.size} elements where {length!r:.40} were announced")
        if dtype is _BOOL and array.size and int(array.view(_UINT8).max()) > 1:
            raise ValueError("a bool is neither 0 nor 1")
        array.setflags(False)  # `write`, by position: 0.25 us less than `flags.writeable`, twice a trajectory
        return array


def _references_of(types: frozenset[type]) -> msgspec.msgpack.Decoder[msgspec.Struct]:
    """A decoder of the array fields alone, as bytes; it skips over everything else."""
    kinds = [kind for kind in types if hasattr(kind, "__struct_fields__")]  # a direction without messages has None
    names = {field.name for kind in kinds for field in msgspec.structs.fields(kind) if field.type is np.ndarray}
    fields: list[tuple[str, Any, Any]] = [(name, msgspec.Raw, msgspec.Raw()) for name in sorted(names)]
    return msgspec.msgpack.Decoder(msgspec.defstruct("References", fields))


def _announced_type(head: Frame) -> str:
    """What the bytes say they are, for the error message only.

    Skips over everything else: building the objects of what was refused took up to 2 s and 100 MiB for 4 MB of bytes.
    """
    try:
        return _HEAD.decode(head).type[:64]  # type: ignore[arg-type] # any buffer will do
    except _BAD_INPUT:
        return "a message of no known type"
