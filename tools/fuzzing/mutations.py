"""Ways to spoil a message: in its bytes, in its frames, in the values that its bytes stand for. All seeded."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

__all__ = ["mutate", "noise"]

Frames = list[bytes]
_SMALL: Final = 4096
_HUGE: Final = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
"""Headers of an array, a map, a text and a byte string of four thousand million."""
_EDGES: Final[tuple[Any, ...]] = (
    *(0, 1, -1, 127, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 1e308, float("inf"), float("nan"), True, None, "", "x" * 300, b"", b"\xff" * 40),
    *([], {}, [[]], {"type": "Stop"}, ["<i4", 2**40, 1], ["<i4", -1, 1], ["|O", 1, 1], ["<i4", 1, 0], ["<i4", 1, 99]),
)


def mutate(frames: Frames, others: Frames, rng: random.Random) -> Frames:
    """Return a spoiled copy: one to four changes. `others`: frames of another message, to mix with."""
    spoiled = list(frames)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        spoiled = rng.choice(_WAYS)(spoiled, others, rng)
    return spoiled


def noise(kinds: list[str], rng: random.Random) -> Frames:
    """Return frames that no message stands behind: random bytes, or well-formed MessagePack of random values."""
    if rng.random() < 0.4:
        return [rng.randbytes(rng.choice((0, 1, 3, 20, 200))) for _ in range(rng.randint(1, 4))]
    value = _value(rng, 3)
    if rng.random() < 0.7:
        value = {"type": rng.choice(kinds), **(value if isinstance(value, dict) else {})}
    return [
        msgspec.msgpack.encode(value),
        *(rng.randbytes(rng.choice((0, 4, 40))) for _ in range(rng.choice((0, 0, 2)))),
    ]


def _value(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.5:
        if rng.random() < 0.5:
            return [_value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
        return {_key(rng): _value(rng, depth - 1) for _ in range(rng.randint(0, 4))}
    return rng.choice(_EDGES)


def _key(rng: random.Random) -> str:
    return rng.choice(("type", "role", "rank", "version", "group_id", "candidate_id", "prompt_tokens", "x", ""))


def _at(frames: Frames, rng: random.Random, change: Callable[[bytes], bytes]) -> Frames:
    """Change one frame, mostly the first."""
    if not frames:
        return frames
    index = 0 if rng.random() < 0.7 else rng.randrange(len(frames))
    return [*frames[:index], change(frames[index]), *frames[index + 1 :]]


def _flip(frames: Frames, _others: Frames, rng: random.Random) -> Frames:
    def change(data: bytes) -> bytes:
        spoiled = bytearray(data)
        for _ in range(min(rng.choice((1, 1, 2, 8)), len(data))):
            spoiled[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(spoiled)

    return _at(frames, rng, change)


def _cut(frames: Frames, _others: Frames, rng: random.Random) -> Frames:
    return _at(frames, rng, lambda data: data[: rng.randrange(len(data) + 1)])


def _splice(frames: Frames, others: Frames, rng: random.Random) -> Frames:
    def change(data: bytes) -> bytes:
        where = rng.randrange(len(data) + 1)
        until = rng.randrange(where, len(data) + 1)
        put = rng.choice((rng.randbytes(3), rng.choice(_HUGE), rng.choice(others or [b""])[:50], b"\x91" * 2000))
        return data[:where] + put + data[until:]

    return _at(frames, rng, change)


def _reframe(frames: Frames, others: Frames, rng: random.Random) -> Frames:
    """Leave out, repeat, swap or add frames."""
    spoiled = list(frames)
    way = rng.randrange(5)
    if way == 0 and len(spoiled) > 1:
        del spoiled[rng.randrange(len(spoiled))]
    elif way == 1 and spoiled:
        spoiled.insert(rng.randrange(len(spoiled) + 1), rng.choice(spoiled))
    elif way == 2:
        rng.shuffle(spoiled)
    elif way == 3:
        spoiled += others
    else:
        spoiled += [b""] * rng.choice((1, 5, 28))
    return spoiled


def _revalue(frames: Frames, _others: Frames, rng: random.Random) -> Frames:
    """Change what the first frame says, and leave it well-formed."""
    try:
        value = msgspec.msgpack.decode(frames[0])
    except (msgspec.MsgspecError, IndexError, ValueError, RecursionError):
        return frames
    if not isinstance(value, dict):
        return frames
    name = rng.choice(list(value)) if value else "x"
    way = rng.randrange(5)
    if way == 0:
        value.pop(name, None)
    elif way == 1:
        value[_key(rng)] = rng.choice(_EDGES)
    elif way == 2 and isinstance(value.get(name), list) and value[name]:
        value[name][rng.randrange(len(value[name]))] = rng.choice(_EDGES)
    elif way == 3:
        # Not 2,000 times 2,000: memory would show what the tool itself needs, and little else.
        value[name] = [value.get(name)] * rng.choice((0, 2, 2000 if len(frames[0]) < _SMALL else 2))
    else:
        value[name] = rng.choice(_EDGES)
    return [msgspec.msgpack.encode(value), *frames[1:]]


_WAYS: Final = (_flip, _cut, _splice, _reframe, _revalue, _revalue)
