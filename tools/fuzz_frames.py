"""Throw spoiled messages at everything that listens, and see that nothing falls over.

`python tools/fuzz_frames.py [--decode 1000000] [--sockets 10000] [--seed 0] [--curve] [--smoke]`

1. The decoders of all links take mutated messages of every type, random bytes and well-formed MessagePack of random
   values: each must be refused by `ProtocolError` or be a message.
2. A real run (`darts-async up`, simulated engine, real learner, one process a role) gets `--sockets` spoiled messages
   at each socket that it listens on, while it trains: it must go on training, count every one of them, end in good
   order on Ctrl-C, and keep its books balanced. With `--curve` the links are TCP with keys, and the sender has stolen
   one; strangers with no key and with a wrong one knock as well.

Only what the decoder refuses is sent: a member of the run that lies in well-formed messages is not defended against.
The status is 1 when something fell over; the frames that did it are printed.
"""

from __future__ import annotations

import argparse
import sys

from fuzzing.decoding import fuzz_decoders
from fuzzing.live_run import fuzz_live_run
from fuzzing.local_links import fuzz_local_links


def main() -> int:
    """Fuzz; print the figures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decode", type=int, default=1_000_000, help="messages for the decoders")
    parser.add_argument("--sockets", type=int, default=10_000, help="messages for each listening socket; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--curve", action="store_true", help="a run over TCP with keys")
    parser.add_argument("--smoke", action="store_true", help="seconds: fewer, and links in this process, no run")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.decode, arguments.sockets = min(arguments.decode, 20_000), min(arguments.sockets, 300)

    decoded = fuzz_decoders(arguments.decode, arguments.seed)
    print(
        f"decoders: {decoded.count:,} spoiled messages, {decoded.refused:,} refused, "
        f"{decoded.count - decoded.refused:,} valid all the same, {len(decoded.crashes)} crashes; "
        f"{decoded.wall_s:.1f} s, slowest {decoded.slowest_ms:.1f} ms; "
        f"RSS {decoded.rss_before_mib:.1f} -> {decoded.rss_after_mib:.1f} MiB"
    )
    failures = list(decoded.crashes)
    if arguments.sockets:
        fuzz = fuzz_local_links if arguments.smoke else fuzz_live_run
        lines, wrong = fuzz(arguments.sockets, arguments.seed, curve=arguments.curve or arguments.smoke)
        print(*lines, sep="\n")
        failures += wrong
    print(*failures, sep="\n\n", file=sys.stderr)
    print("something fell over" if failures else "nothing fell over")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
