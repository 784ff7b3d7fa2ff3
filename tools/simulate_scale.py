"""Does one selector, allocator and learner keep up with many engines? The real actors on virtual time, metered.

`python tools/simulate_scale.py [--replicas 1000] [--slots 256] [--steps 2] [--smoke]`

Every role's processor time is measured while it does its part of a simulated run, messages encoded and decoded as on
the wire (sockets and system calls are not in it; `tools/bench_links.py` measures those). Over the virtual time of the
run that is the share of a core that the role would need: above 1 it cannot keep up, and has to be sharded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import msgspec

from actors.local import ROLE
from actors.twin import run_twin
from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.twin.profile import Twin, read_twin
from darts_async.twin.virtual_time import MeteredLoop


def as_large(name: str, replicas: int) -> Twin:
    """Return a profile whose learner keeps pace with so many replicas: the question is what directs them."""
    profile = read_twin(name).profile
    learner = msgspec.structs.replace(profile.learner, token_s=profile.learner.token_s / replicas, call_s=0.0)
    return Twin(msgspec.structs.replace(profile, devices=0, learner=learner))


def main() -> None:
    """Simulate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twin", default="gpu_7b", help="profile")
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=256, help="concurrent candidates of a replica")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--interval", type=int, default=256, help="tokens between two outputs of a candidate")
    parser.add_argument("--smoke", action="store_true", help="4 replicas of 16")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.replicas, arguments.slots = 4, 16
    size, budget = 8, 12
    in_flight = max(1, arguments.replicas * arguments.slots // budget)
    step = max(1, in_flight // 2)
    with tempfile.TemporaryDirectory(prefix="darts-scale-") as folder:
        keys = {
            "run.dir": folder,
            "run.name": "scale",
            "run.steps": str(arguments.steps),
            "eval.prompts": "0",
            "group.size": str(size),
            "group.groups_per_step": str(step),
            "generator.replicas": str(arguments.replicas),
            "generator.max_num_seqs": str(arguments.slots),
            "generator.stream_interval": str(arguments.interval),
            "model.max_response_tokens": "8192",
            "queues.in_flight_groups": str(in_flight),
            "queues.ready_groups": str(step),
            "allocation.budget": str(budget),
        }
        config = load_config("darts_best", list(keys.items()))
        RunPaths.of(config).root.mkdir(parents=True)
        loops: list[MeteredLoop] = []

        def metered() -> MeteredLoop:
            loops.append(MeteredLoop(ROLE))
            return loops[-1]

        began = time.perf_counter()
        summary = run_twin(config, as_large(arguments.twin, arguments.replicas), loop_factory=metered, encode=True)
        wall_s = time.perf_counter() - began
        ledger = sum(path.stat().st_size for path in Path(RunPaths.of(config).ledger).glob("*.msgpack"))
    (loop,) = loops
    virtual_s = loop.time()
    rollouts, tokens = summary["rollouts"]["generated"], summary["tokens"]["generated"]
    print(f"{arguments.replicas:,} replicas x {arguments.slots} = {arguments.replicas * arguments.slots:,} candidates")
    print(f"{rollouts:,} rollouts, {tokens:,} tokens, {virtual_s:,.0f} s simulated in {wall_s:,.0f} s")
    print(f"{sum(loop.calls.values()) / wall_s:,.0f} events a second; ledger {ledger / 1e6:,.1f} MB")
    print(f"{'role':<12}{'events':>14}{'processor s':>14}{'of a core':>12}{'most rollouts/s':>18}")
    for role in ("allocator", "selector", "learner", "generator"):
        cpu_s = loop.cpu_s[role]
        each = cpu_s / arguments.replicas if role == "generator" else cpu_s
        note = " (each)" if role == "generator" else ""
        most = rollouts / cpu_s if cpu_s else float("inf")
        print(f"{role + note:<18}{loop.calls[role]:>8,}{each:>14.2f}{each / virtual_s:>12.1%}{most:>18,.0f}")


if __name__ == "__main__":
    main()
