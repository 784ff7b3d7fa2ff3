"""Spoiled frames against the decoders and against every listening socket: `tools/fuzz_frames.py`, as rows."""

from __future__ import annotations

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


def run(*, quick: bool, folder: Path, said: Callable[[str], None]) -> Result:
    """A million frames, and 10,000 a socket of a live run over ipc and of one over TCP with keys."""
    del folder  # its runs are removed
    began = time.monotonic()
    decode, sockets = (_DECODE_QUICK, _SOCKETS_QUICK) if quick else (_DECODE, _SOCKETS)
    said(f"{decode:,} frames for the decoders")
    decoded = fuzz_decoders(decode, SEED)
    growth_mib = decoded.rss_after_mib - decoded.rss_before_mib
    problems = list(decoded.crashes)
    if growth_mib > _MOST_GROWTH_MIB:
        problems.append(f"memory of the decoders grew by {growth_mib:.1f} MiB")
    rows = [
        Row(
            fault="spoiled frames for the decoders (truncated, huge, wrong schema, random)",
            times=decoded.count,
            outcome=f"{decoded.refused:,} refused, {decoded.count - decoded.refused:,} valid all the same, "
            f"{len(decoded.crashes)} crashes; the slowest took {decoded.slowest_ms:.1f} ms",
            memory=f"{decoded.rss_before_mib:.0f} -> {decoded.rss_after_mib:.0f} MiB",
        )
    ]
    figures: dict[str, object] = {"decode_s": decoded.wall_s}
    for curve in (True,) if quick else (False, True):
        where = "TCP with keys" if curve else "ipc"
        said(f"{sockets:,} messages for each socket, {where}")
        lines, wrong = (fuzz_local_links if quick else fuzz_live_run)(sockets, SEED, curve=curve)
        for line in lines:
            said(line)
        problems += wrong
        figures[where] = lines
        rows.append(
            Row(
                fault=f"spoiled messages for each listening socket ({where})",
                times=sockets,
                outcome=lines[0] if lines else "; ".join(wrong)[:200],
                memory=lines[1].partition(": ")[2] + " MiB" if len(lines) > 1 else "",
            )
        )
    return Result("fuzz", rows, time.monotonic() - began, problems, quick, figures)
