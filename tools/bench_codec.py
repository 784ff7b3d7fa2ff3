"""How fast a trajectory is encoded and decoded, beside MessagePack with the arrays as lists, in the same run.

`python tools/bench_codec.py [--tokens 512] [--smoke]`. One process, one core. Each way goes from a trajectory with
numpy arrays to bytes and back to numpy arrays; the ways take turns, and medians over the turns are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import msgpack
import msgspec
import numpy as np

from darts_async.messages import ToSelector, Trajectory, VersionSpan
from darts_async.transport.codec import Codec


class ListTrajectory(msgspec.Struct):
    """A trajectory as it would be without array frames."""

    candidate_id: int
    replica: int
    finish_reason: str
    response_tokens: list[int]
    behaviour_logprobs: list[float]
    version_spans: list[tuple[int, int]]


def sample_trajectory(tokens: int, number: int = 0) -> Trajectory:
    """A response as an engine makes it: token ids of a large vocabulary, log-probs, two policy versions."""
    rng = np.random.default_rng(number)
    return Trajectory(
        candidate_id=number,
        replica=0,
        finish_reason="stop",
        response_tokens=rng.integers(0, 151_000, tokens, dtype=np.int32),
        behaviour_logprobs=-rng.exponential(1.0, tokens).astype(np.float32),
        version_spans=(VersionSpan(3, 0), VersionSpan(4, tokens // 2)) if tokens > 1 else (VersionSpan(3, 0),),
    )


def _as_fields(message: Trajectory) -> dict[str, object]:
    return {
        "candidate_id": message.candidate_id,
        "replica": message.replica,
        "finish_reason": message.finish_reason,
        "response_tokens": message.response_tokens.tolist(),
        "behaviour_logprobs": message.behaviour_logprobs.tolist(),
        "version_spans": [(span.version, span.start) for span in message.version_spans],
    }


def _ways(message: Trajectory) -> dict[str, Callable[[], object]]:
    codec: Codec[ToSelector] = Codec(ToSelector)
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(ListTrajectory)

    def array_frames() -> object:
        return codec.decode(codec.encode(message))

    def msgspec_lists() -> object:
        back = decoder.decode(encoder.encode(ListTrajectory(**_as_fields(message))))  # type: ignore[arg-type]
        return np.array(back.response_tokens, np.int32), np.array(back.behaviour_logprobs, np.float32)

    def msgpack_lists() -> object:
        back = msgpack.unpackb(msgpack.packb(_as_fields(message)))
        return np.array(back["response_tokens"], np.int32), np.array(back["behaviour_logprobs"], np.float32)

    return {"array frames (ours)": array_frames, "msgspec, lists": msgspec_lists, "msgpack, lists": msgpack_lists}


def _rate(way: Callable[[], object], seconds: float) -> float:
    """Round trips a second, over about `seconds`."""
    count, batch, started = 0, 50, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(batch):
            way()
        count += batch
    return count / elapsed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="response tokens of the trajectory")
    parser.add_argument("--smoke", action="store_true", help="a second instead of ten: shows that it runs")
    arguments = parser.parse_args()
    turns, seconds = (2, 0.05) if arguments.smoke else (9, 0.3)
    ways = _ways(sample_trajectory(arguments.tokens))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            rates[name].append(_rate(way, seconds))
    ours = statistics.median(rates["array frames (ours)"])
    print(f"encode + decode, trajectory of {arguments.tokens} tokens, median of {turns} turns")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"  {name:22s} {median:10,.0f} messages/s  {1e6 / median:8.1f} us  ours is {ours / median:5.1f} x")


if __name__ == "__main__":
    main()
