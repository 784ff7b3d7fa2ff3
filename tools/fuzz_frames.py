"""Throw spoiled messages at everything that listens, and see that nothing falls over.

`python tools/fuzz_frames.py [--decode 1000000] [--sockets 10000] [--steps 150] [--seed 0] [--curve] [--smoke]`

1. The decoders of all links take mutated messages of every type, random bytes and well-formed MessagePack of random
   values: each must be refused by `ProtocolError` or be a message. Memory must stay as it was after a warm-up.
2. A real run (`darts-async up`, simulated engine, real learner, one process a role) gets `--sockets` spoiled messages
   at each socket that it listens on, while it trains, and old valid ones again (a tenth as many, at the streams): it
   must go on training, count every one of the first and heed none of the second, reach its last step, and keep its
   books balanced. With `--curve` the links are TCP with keys, and the sender has stolen one; strangers with no key and
   with a wrong one knock as well.

A member of the run that lies in well-formed messages is not defended against. The status is 1 when something fell over;
what did it is printed.
"""

from __future__ import annotations

import argparse
import signal
import sys

from fuzzing.decoding import fuzz_decoders
from fuzzing.live_run import fuzz_live_run
from fuzzing.local_links import fuzz_local_links


def main() -> int:
    """Fuzz; print the figures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decode", type=int, default=1_000_000, help="messages for the decoders")
    parser.add_argument("--sockets", type=int, default=10_000, help="messages for each listening socket; 0: none")
    parser.add_argument("--steps", type=int, default=150, help="of the run: more than it makes while it is shot at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--curve", action="store_true", help="a run over TCP with keys")
    parser.add_argument("--smoke", action="store_true", help="seconds: fewer, and links in this process, no run")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`: the run is taken along
    if arguments.smoke:
        arguments.decode, arguments.sockets = min(arguments.decode, 150_000), min(arguments.sockets, 1_000)

    decoded = fuzz_decoders(arguments.decode, arguments.seed)
    print(
        f"decoders: {decoded.count:,} spoiled messages, {decoded.refused:,} refused, "
        f"{decoded.count - decoded.refused:,} valid all the same, {len(decoded.crashes)} crashes; "
        f"{decoded.wall_s:.1f} s, slowest {decoded.slowest_ms:.1f} ms; "
        f"RSS {', '.join(f'{size:.1f}' for size in decoded.rss_mib)} MiB at 0 to 100 %",
        flush=True,
    )
    failures = list(decoded.crashes)
    if arguments.smoke:
        lines, wrong = fuzz_local_links(arguments.sockets, arguments.seed, curve=True)
    elif arguments.sockets:
        lines, wrong = fuzz_live_run(arguments.sockets, arguments.seed, curve=arguments.curve, steps=arguments.steps)
    else:
        lines, wrong = [], []
    print(*lines, sep="\n")
    failures += wrong
    print(*failures, sep="\n\n", file=sys.stderr)
    print("something fell over" if failures else "nothing fell over")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
