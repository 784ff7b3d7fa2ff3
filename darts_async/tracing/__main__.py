"""`python -m darts_async.tracing RUN [--check]`: make a run's `trace.json` once more from what is in `RUN/trace/`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from darts_async.tracing.check import check_trace
from darts_async.tracing.merge import merge_trace


def main() -> int:
    """Do it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m darts_async.tracing", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--check", action="store_true", help="look whether everything in it is as the format asks")
    arguments = parser.parse_args()
    try:
        merged = merge_trace(arguments.run)
    except OSError as error:
        sys.stderr.write(f"{arguments.run}: {error}\n")
        return 1
    if merged is None:
        sys.stderr.write(f"{arguments.run} has no trace: it was started with metrics.trace = false, or is no run\n")
        return 1
    skipped = f"; {merged.skipped} lines were no records" if merged.skipped else ""
    sys.stdout.write(f"{merged.path}: {merged.events} events{skipped}\n")
    for note in merged.notes:
        sys.stdout.write(f"{note}\n")
    if not arguments.check:
        return 0
    found = check_trace(json.loads(merged.path.read_bytes()))
    sys.stdout.write(f"{len(found.processes)} processes, arrows of {found.arrows} groups, {dict(found.spans)}\n")
    for violation in found.violations:
        sys.stdout.write(f"wrong: {violation}\n")
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
