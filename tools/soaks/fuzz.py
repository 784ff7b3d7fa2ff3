"""Spoiled frames against the decoders and against every listening socket: `tools/fuzz_frames.py`, as rows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from fuzzing.decoding import fuzz_decoders
from fuzzing.live_run import fuzz_live_run
from fuzzing.local_links import fuzz_local_links

from soaks.result import Result, Row

_DECODE, _SOCKETS = 1_000_000, 10_000
_DECODE_QUICK, _SOCKETS_QUICK = 5_000, 100
_MOST_GROWTH_MIB = 16.0
"""Of the decoding process: samples, counters and the heap's moods."""
SEED = 0
_STEPS = 150
"""Of a live run: more than it makes while it is shot at."""
_SIZES = re.compile(r"\s*(?P<name>\S+): RSS \d+ MiB before, (?P<warm>\d+) warm, (?P<end>\d+) at the end")


def run(*, quick: bool, folder: Path, said: Callable[[str], None]) -> Result:
    """A million frames, and 10,000 a socket of a live run over ipc and of one over TCP with keys."""
    del folder  # its runs are removed
    began = time.monotonic()
    decode, sockets = (_DECODE_QUICK, _SOCKETS_QUICK) if quick else (_DECODE, _SOCKETS)
    said(f"{decode:,} frames for the decoders")
    decoded = fuzz_decoders(decode, SEED)
    first, last = decoded.rss_mib[0], decoded.rss_mib[-1]
    problems = list(decoded.crashes)
    if not quick and last - first > _MOST_GROWTH_MIB:
        problems.append(f"memory of the decoders grew by {last - first:.1f} MiB")
    rows = [
        Row(
            fault="spoiled frames for the decoders (truncated, huge, wrong schema, random)",
            times=decoded.count,
            outcome=f"{decoded.refused:,} refused, {decoded.count - decoded.refused:,} valid all the same, "
            f"{len(decoded.crashes)} crashes; the slowest took {decoded.slowest_ms:.1f} ms",
            memory=f"{first:.0f} MiB warm, {last:.0f} at the end",
        )
    ]
    figures: dict[str, object] = {"decode_s": decoded.wall_s, "rss_mib": decoded.rss_mib}
    for curve in (True,) if quick else (False, True):
        where = "TCP with keys" if curve else "ipc"
        said(f"{sockets:,} messages for each socket, {where}")
        if quick:
            lines, wrong = fuzz_local_links(sockets, SEED, curve=curve)
        else:
            lines, wrong = fuzz_live_run(sockets, SEED, curve=curve, steps=_STEPS)
        for line in lines:
            said(line)
        problems += wrong
        figures[where] = lines
        sizes = [found for line in lines if (found := _SIZES.match(line))]
        rows.append(
            Row(
                fault=f"spoiled messages for each listening socket ({where})",
                times=sockets,
                outcome=lines[0] if lines else (wrong or ["no result"])[0].splitlines()[0][:200],
                memory=", ".join(f"{name} {warm} MiB warm, {end} at the end" for name, warm, end in map(_parts, sizes)),
            )
        )
    return Result("fuzz", rows, time.monotonic() - began, problems, quick, figures)


def _parts(found: re.Match[str]) -> tuple[str, str, str]:
    return found["name"], found["warm"], found["end"]
