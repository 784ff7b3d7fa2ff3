"""How fast the ZeroMQ links are, beside raw pyzmq sending the same frames, in the same run.

`python tools/bench_links.py [--tokens 512] [--turns 7] [--require 0.7] [--smoke]`

Throughput: PUSH -> PULL over ipc between two processes. `raw` is plain blocking pyzmq (`send_multipart`,
`recv_multipart`) of frames that were encoded once and are not decoded; `link` encodes every message, checks and decodes
it into a typed one, on uvloop; `zmq.asyncio` is raw again, through pyzmq's own asyncio sockets. The ways take turns and
medians are printed. Then the same link over loopback TCP, open and with keys (CURVE), in turns too. Latency:
`CancelRollouts` from a hub to a dealer in another process, one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
import zmq
import zmq.asyncio
from bench_codec import sample_trajectory

from darts_async.messages import CancelRollouts, GeneratorHello, Message, Progress, ToSelector
from darts_async.runtime.run_keys import RunKeys
from darts_async.runtime.topology import LinkName
from darts_async.transport.codec import Codec, Frame
from darts_async.transport.curve import ConnectKeys
from darts_async.transport.gate import Gate
from darts_async.transport.zmq_links import zmq_dealer, zmq_hub, zmq_receiver, zmq_sender

HWM = 1024
_LINK: LinkName = "trajectories"
_CANCEL_PAUSE_S = 0.002
_ENOUGH_S = 12.0
"""On a slow machine three turns must do once they have taken this long."""


def _progress(candidates: int) -> Progress:
    ids = np.arange(candidates, dtype=np.int64)
    return Progress(replica=0, candidate_ids=ids, num_tokens=np.ones(candidates, np.int32))


# --- the far process: receives `count` messages, reports the seconds between the first and the last ---


def _receive_raw(endpoint: str, count: int) -> float:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.set_hwm(HWM)
        socket.bind(endpoint)
        _ready()
        socket.recv_multipart()
        started = time.perf_counter()
        for _ in range(count - 1):
            socket.recv_multipart()
        return time.perf_counter() - started


async def _receive_asyncio(endpoint: str, count: int) -> float:
    with zmq.asyncio.Context() as context, context.socket(zmq.PULL) as socket:
        socket.set_hwm(HWM)
        socket.bind(endpoint)
        _ready()
        await socket.recv_multipart()
        started = time.perf_counter()
        for _ in range(count - 1):
            await socket.recv_multipart()
        return time.perf_counter() - started


async def _receive_link(endpoint: str, count: int, keys: RunKeys | None = None) -> float:
    with zmq.Context() as context:
        codec: Codec[ToSelector] = Codec(ToSelector)
        gate = None if keys is None else Gate(context, keys.allowed((_LINK,)))
        serve = None if keys is None else keys.serve(_LINK)
        async with zmq_receiver(context, endpoint, codec, hwm=HWM, keys=serve) as link:
            _ready(link.endpoint)
            await link.recv()
            started = time.perf_counter()
            for _ in range(count - 1):
                await link.recv()
            seconds = time.perf_counter() - started
        if gate is not None:
            gate.close()
        return seconds


async def _receive_cancels(endpoint: str, count: int) -> list[float]:
    with zmq.Context() as context:
        hello: Codec[GeneratorHello] = Codec(GeneratorHello)
        cancels: Codec[CancelRollouts] = Codec(CancelRollouts)
        async with zmq_dealer(context, endpoint, "generator-0", send=hello, receive=cancels) as link:
            _ready()
            await link.send(GeneratorHello(replica=0))
            delays = []
            for _ in range(count):
                message = await link.recv()
                delays.append(time.monotonic() - message.decided_at_s)
            return delays


def _ready(endpoint: str = "") -> None:
    print("ready", endpoint, flush=True)


def _far_side(way: str, endpoint: str, count: int, keys: str) -> None:
    if keys:
        result: Any = uvloop.run(_receive_link(endpoint, count, RunKeys(Path(keys))))
    elif way == "raw":
        result = _receive_raw(endpoint, count)
    else:
        receive: Callable[[str, int], Coroutine[Any, Any, Any]] = {
            "link": _receive_link,
            "zmq.asyncio": _receive_asyncio,
            "cancels": _receive_cancels,
        }[way]
        result = uvloop.run(receive(endpoint, count))
    print(json.dumps(result), flush=True)


class _FarSide:
    """The far process, from its start to its result."""

    def __init__(self, way: str, endpoint: str, count: int, keys: str = "") -> None:
        command = [sys.executable, __file__, "--far-side", way, endpoint, str(count), keys]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        ready, _, self.endpoint = self._lines.readline().strip().partition(" ")
        assert ready == "ready", f"the receiving process of {way!r} did not start"

    def result(self) -> Any:
        value = json.loads(self._lines.readline())
        self._lines.close()
        self._process.wait(timeout=10)
        return value


# --- this process: sends ---


# Raw sockets are closed only when the far side has everything: see `darts_async.transport.zmq_socket` on closing.


def _send_raw(endpoint: str, frames: Sequence[Frame], count: int, far: _FarSide) -> float:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set_hwm(HWM)
        socket.connect(endpoint)
        for _ in range(count):
            socket.send_multipart(frames)
        return float(far.result())


async def _send_asyncio(endpoint: str, frames: Sequence[Frame], count: int, far: _FarSide) -> float:
    with zmq.asyncio.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set_hwm(HWM)
        socket.connect(endpoint)
        for _ in range(count):
            await socket.send_multipart(frames)
        return float(await asyncio.to_thread(far.result))


async def _send_link(endpoint: str, message: Any, count: int, far: _FarSide, keys: ConnectKeys | None = None) -> float:
    with zmq.Context() as context:
        codec: Codec[ToSelector] = Codec(ToSelector)
        link = zmq_sender(context, endpoint, codec, hwm=HWM, keys=keys)
        for _ in range(count):
            await link.send(message)
        await link.close(10.0)
        return float(far.result())


async def _send_cancels(endpoint: str, count: int) -> list[float]:
    with zmq.Context() as context:
        cancels: Codec[CancelRollouts] = Codec(CancelRollouts)
        hello: Codec[GeneratorHello] = Codec(GeneratorHello)
        async with zmq_hub(context, endpoint, send=cancels, receive=hello) as hub:
            far = await asyncio.to_thread(_FarSide, "cancels", endpoint, count)
            name, _ = await hub.recv()
            for number in range(count):
                await asyncio.sleep(_CANCEL_PAUSE_S)  # an idle link is what is measured
                await hub.send(name, CancelRollouts(candidate_ids=(number,), decided_at_s=time.monotonic()))
            delays: list[float] = await asyncio.to_thread(far.result)
            return delays


@dataclass(frozen=True)
class Bench:
    """One kind of message and how many of it a turn sends."""

    title: str
    message: Message
    count: int
    updates: int = 1

    def turn(self, way: str, endpoint: str) -> float:
        """Messages a second at the receiver."""
        count = self.count // 8 if way == "zmq.asyncio" else self.count
        far = _FarSide(way, endpoint, count)
        frames = [bytes(frame) for frame in Codec[Any](ToSelector).encode(self.message)]
        if way == "raw":
            seconds = _send_raw(endpoint, frames, count, far)
        elif way == "link":
            seconds = uvloop.run(_send_link(endpoint, self.message, count, far))
        else:
            seconds = uvloop.run(_send_asyncio(endpoint, frames, count, far))
        return (count - 1) / seconds

    def run(self, folder: str, turns: int) -> float:
        """Print the medians; return the link's share of the raw throughput."""
        rates: dict[str, list[float]] = {"raw": [], "link": [], "zmq.asyncio": []}
        started, done = time.perf_counter(), 0
        while done < turns and (done < 3 or time.perf_counter() - started < _ENOUGH_S):
            for way in list(rates)[:: 1 if done % 2 else -1]:  # nobody always goes first
                rates[way].append(self.turn(way, f"ipc://{folder}/{way}-{done}-{self.updates}"))
            done += 1
        size = sum(map(len, Codec[Any](ToSelector).encode(self.message)))
        raw = statistics.median(rates["raw"])
        print(f"{self.title}, {size} bytes, {self.count} a turn, median of {done} turns")
        for way, values in rates.items():
            median = statistics.median(values)
            spread = f"{min(values):,.0f} .. {max(values):,.0f}"
            updates = f" {median * self.updates:11,.0f} updates/s" if self.updates > 1 else ""
            print(
                f"  {way:12s} {median:9,.0f} messages/s {median * size / 1e6:7.1f} MB/s{updates} "
                f"  {median / raw:5.0%} of raw   ({spread})"
            )
        return statistics.median(rates["link"]) / raw


def curve_cost(title: str, message: Message, count: int, turns: int, folder: Path) -> float:
    """Print what a link carries over loopback TCP without and with keys; return the second over the first."""
    keys = RunKeys.create(folder / "keys")
    rates: dict[str, list[float]] = {"open": [], "CURVE": []}
    for turn in range(turns):
        for way in list(rates)[:: 1 if turn % 2 else -1]:
            far = _FarSide("link", "tcp://127.0.0.1:*", count, str(keys.folder) if way == "CURVE" else "")
            connect = keys.connect("generator") if way == "CURVE" else None
            rates[way].append((count - 1) / uvloop.run(_send_link(far.endpoint, message, count, far, connect)))
    size = sum(map(len, Codec[Any](ToSelector).encode(message)))
    base = statistics.median(rates["open"])
    print(f"{title} over loopback TCP, {size:,} bytes, {count} a turn, median of {turns} turns")
    for way, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):,.0f} .. {max(values):,.0f}"
        print(
            f"  {way:12s} {median:9,.0f} messages/s {median * size / 1e6:7.1f} MB/s   {median / base:5.0%} of open"
            f"   ({spread})"
        )
    return statistics.median(rates["CURVE"]) / base


def main() -> int:
    """Measure and print; status 1 if the link is below `--require`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="response tokens of the trajectory")
    parser.add_argument("--turns", type=int, default=7, help="repetitions, interleaved")
    parser.add_argument("--require", type=float, default=0.0, help="fail below this share of the raw throughput")
    parser.add_argument("--smoke", action="store_true", help="seconds: shows that it runs")
    parser.add_argument("--far-side", nargs=4, metavar=("WAY", "ENDPOINT", "COUNT", "KEYS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.far_side:
        way, endpoint, count, keys = arguments.far_side
        _far_side(way, endpoint, int(count), keys)
        return 0
    small, turns, cancels = (2_000, 1, 50) if arguments.smoke else (20_000, arguments.turns, 600)
    with tempfile.TemporaryDirectory(prefix="darts-") as folder:
        trajectory = Bench(f"trajectory of {arguments.tokens} tokens", sample_trajectory(arguments.tokens), small)
        share = trajectory.run(folder, turns)
        Bench("progress of 32 candidates", _progress(32), small, updates=32).run(folder, 1 if arguments.smoke else 3)
        few = 1 if arguments.smoke else max(3, turns // 2)
        for tokens, number in ((arguments.tokens, small), (64 * arguments.tokens, small // 40)):
            curve_cost(f"trajectory of {tokens:,} tokens", sample_trajectory(tokens), number, few, Path(folder))
        delays = sorted(uvloop.run(_send_cancels(f"ipc://{Path(folder)}/cancels", cancels)))
        p50, p99 = (1e6 * delays[int(q * (len(delays) - 1))] for q in (0.5, 0.99))
        print(f"CancelRollouts, hub to dealer, idle link, {cancels} samples: p50 {p50:.0f} us, p99 {p99:.0f} us")
    if share < arguments.require:
        print(f"the link reaches {share:.0%} of raw pyzmq where {arguments.require:.0%} are required")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
