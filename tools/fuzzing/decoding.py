"""Spoiled frames against the decoders of all links: each is refused by `ProtocolError`, or is a message."""

from __future__ import annotations

import random
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darts_async.errors import ProtocolError
from darts_async.transport.codec import Codec
from fuzzing.mutations import Frames, mutate, noise
from fuzzing.samples import codecs, sample

__all__ = ["Decoded", "Spoiler", "fuzz_decoders", "rss_mib"]

_POOL = 40
"""Valid messages of a type that mutations start from."""
_MAX_CRASHES = 20


@dataclass
class Decoded:
    """What became of the frames."""

    count: int = 0
    refused: int = 0
    wall_s: float = 0.0
    rss_mib: list[float] = field(default_factory=list)
    """After the warm-up, and after each quarter."""
    slowest_ms: float = 0.0
    """In processor time: what else the machine does shall not count."""
    crashes: list[str] = field(default_factory=list)


class Spoiler:
    """Makes spoiled frames for the messages of one codec."""

    def __init__(self, codec: Codec[Any], rng: random.Random) -> None:
        self._rng = rng
        self._kinds = [kind.__name__ for kind in codec.types]
        kinds = sorted(codec.types, key=lambda kind: kind.__name__)
        self.valid: list[Frames] = [
            [bytes(frame) for frame in codec.encode(sample(kind, rng))] for kind in kinds for _ in range(_POOL)
        ]

    def spoil(self) -> Frames:
        """Return frames of a mutated message (most of the time) or of none."""
        rng = self._rng
        if rng.random() < 0.15:
            return noise(self._kinds, rng)
        return mutate(rng.choice(self.valid), rng.choice(self.valid), rng)


def fuzz_decoders(count: int, seed: int) -> Decoded:
    """Decode this many spoiled messages, spread over all links."""
    rng, began = random.Random(seed), time.perf_counter()
    pairs = [(name, codec, Spoiler(codec, rng)) for name, codec in codecs().items()]
    result = Decoded()
    num_warm = max(count // 10, 1)
    for number in range(-num_warm, count):
        if number == 0:
            result.count = result.refused = 0
            began = time.perf_counter()
        if number >= 0 and number % max(count // 4, 1) == 0:
            result.rss_mib.append(rss_mib())
        name, codec, spoiler = pairs[number % len(pairs)]
        _decode_one(name, codec, spoiler.spoil(), result, number)
        if len(result.crashes) >= _MAX_CRASHES:
            break
    result.wall_s = time.perf_counter() - began
    result.rss_mib.append(rss_mib())
    return result


def _decode_one(name: str, codec: Codec[Any], frames: Frames, result: Decoded, number: int) -> None:
    began = time.thread_time()
    result.count += 1
    try:
        codec.decode(frames)
    except ProtocolError:
        result.refused += 1
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        if len(result.crashes) < _MAX_CRASHES:
            result.crashes.append(f"{name}, number {number}: {frames!r:.500}\n{traceback.format_exc()}")
    result.slowest_ms = max(result.slowest_ms, 1e3 * (time.thread_time() - began))


def rss_mib(pid: int | str = "self") -> float:
    """Resident memory of a process; 0 where the system does not say, or it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)
