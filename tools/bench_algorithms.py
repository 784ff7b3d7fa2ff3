"""How fast the pure algorithms are, each beside a naive version in the same run, on one core.

    python tools/bench_algorithms.py [--smoke] [--candidates N]

The selector: progress reports handled per second while N candidates decode, and again with ten times as many groups;
the cost of a report must not grow with their number. The naive selector sorts the group anew at every report. Beside
it the allocation table, from `bench_allocation.py`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from darts_async.algorithms.selector import Selector
from darts_async.algorithms.staleness import StepPlanner
from darts_async.messages import MAX_CANDIDATES, GroupPlan, Progress, Trajectory, VersionSpan, candidate_id

GROUP_SIZE, NUM_SAMPLED, CAP = 8, 16, 2048
STREAM_INTERVAL = 4
"""Tokens between two reports of a candidate."""
PER_MESSAGE = 256
"""Candidates of one engine, whose counts come in one message."""

Row = tuple[str, ...]


@dataclass
class Load:
    """Groups in the middle of decoding: final lengths, and how far every candidate is."""

    lengths: np.ndarray
    """int64 [num_groups, NUM_SAMPLED]."""
    tokens: np.ndarray
    """int64 [num_groups, NUM_SAMPLED]: below the length where it runs."""

    @classmethod
    def draw(cls, num_groups: int, seed: int = 0) -> Load:
        """Log-normal lengths as published ones (group means 885, spread .43; .35 within); groups at random points."""
        rng = np.random.default_rng(seed)
        mean = np.exp(rng.normal(6.3, 0.43, size=(num_groups, 1)))
        lengths = np.clip(mean * np.exp(rng.normal(0.0, 0.35, size=(num_groups, NUM_SAMPLED))), 8, CAP - 1)
        lengths = lengths.astype(np.int64)
        # Up to the point at which the short end is about to be full: at most seven have finished, nobody is cancelled.
        seventh = np.sort(lengths, axis=1)[:, GROUP_SIZE - 2 : GROUP_SIZE - 1]
        at = (seventh * rng.uniform(0.3, 1.0, size=(num_groups, 1))).astype(np.int64)
        return cls(lengths, np.minimum(lengths, at))

    def reports(self, num: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Messages of PER_MESSAGE counts until `num` reports are out: engine by engine, round after round."""
        tokens = self.tokens.copy()
        per_engine = PER_MESSAGE // NUM_SAMPLED
        left = num
        while left > 0:
            tokens += STREAM_INTERVAL
            for first in range(0, len(tokens), per_engine):
                now, final = tokens[first : first + per_engine], self.lengths[first : first + per_engine]
                groups, indices = np.nonzero(now < final)
                yield (groups + first) * MAX_CANDIDATES + indices, now[groups, indices]
                left -= len(groups)
                if left <= 0:
                    return


class SelectorUnderLoad:
    """The selector as the actor uses it."""

    def __init__(self, load: Load, rule: str) -> None:
        num_groups = len(load.lengths)
        self._selector = Selector(planner=StepPlanner(num_groups, 1), run_seed=0, max_response_tokens=CAP)
        prompt = np.zeros(16, np.int32)
        for group in range(num_groups):
            plan = GroupPlan(
                group_id=group,
                prompt_id=f"p{group}",
                rule=rule,
                group_size=GROUP_SIZE,
                keep_longest=1,
                candidate_ids=tuple(candidate_id(group, index) for index in range(NUM_SAMPLED)),
                dispatch_version=0,
                prompt_tokens=prompt,
            )
            self._selector.on_plan("allocator-0", plan)
            self._selector.take_effects()
        for group, index in np.argwhere(load.tokens >= load.lengths).tolist():
            self._selector.on_trajectory(_trajectory(candidate_id(group, index), int(load.lengths[group, index])))
            self._selector.take_effects()

    def take(self, candidates: np.ndarray, tokens: np.ndarray) -> None:
        """One message."""
        self._selector.on_progress(Progress(replica=0, candidate_ids=candidates, num_tokens=tokens.astype(np.int32)))
        self._selector.take_effects()


class NaiveSelector:
    """Keeps what it knows per group and sorts it at every report to see whether the n shortest are certain."""

    def __init__(self, load: Load) -> None:
        finished = (load.tokens >= load.lengths).tolist()
        self._groups = [
            {index: (done[index], count) for index, count in enumerate(row)}
            for done, row in zip(finished, load.tokens.tolist(), strict=True)
        ]

    def take(self, candidates: np.ndarray, tokens: np.ndarray) -> None:
        """One message."""
        for candidate, count in zip(candidates.tolist(), tokens.tolist(), strict=True):
            group = self._groups[candidate // MAX_CANDIDATES]
            index = candidate % MAX_CANDIDATES
            if index not in group:
                continue
            group[index] = (False, count)
            order = sorted(group.items(), key=lambda item: (not item[1][0], item[1][1], item[0]))
            last, (is_finished, limit) = order[GROUP_SIZE - 1]
            if is_finished:
                for i, (done, length) in order[GROUP_SIZE:]:
                    if not done and (length + 1, i) > (limit, last):
                        del group[i]


def _trajectory(candidate: int, length: int) -> Trajectory:
    return Trajectory(
        candidate_id=candidate,
        replica=0,
        finish_reason="stop",
        response_tokens=_TOKENS[:length],
        behaviour_logprobs=_LOGPROBS[:length],
        version_spans=(VersionSpan(0, 0),),
    )


_TOKENS = np.zeros(CAP, np.int32)
_LOGPROBS = np.zeros(CAP, np.float32)


def _per_second(take: Callable[[np.ndarray, np.ndarray], None], load: Load, num: int) -> float:
    messages = list(load.reports(num))
    total = sum(len(candidates) for candidates, _ in messages)
    gc.collect()
    start_s = time.process_time()  # one core's work, whoever else is on the machine
    for candidates, tokens in messages:
        take(candidates, tokens)
    return total / (time.process_time() - start_s)


def selector_rows(candidates: int, reports: int) -> list[Row]:
    """Reports per second: rule by number of groups, the naive selector beside it."""
    rows: list[Row] = [("rule", "groups", "candidates", "reports/s", "us/report", "naive reports/s")]
    for num_groups in (candidates // NUM_SAMPLED, 10 * candidates // NUM_SAMPLED):
        load = Load.draw(num_groups)
        naive = _per_second(NaiveSelector(load).take, load, reports)
        for rule in ("survivor", "shortest"):
            rate = _per_second(SelectorUnderLoad(load, rule).take, load, reports)
            counts = (f"{num_groups:,}", f"{num_groups * NUM_SAMPLED:,}")
            rows.append((rule, *counts, f"{rate:,.0f}", f"{1e6 / rate:.2f}", f"{naive:,.0f}"))
    return rows


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a table; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--candidates", type=int, default=100_000, help="candidates that decode at once")
    parser.add_argument("--reports", type=int, default=1_000_000, help="progress reports to time")
    options = parser.parse_args()
    if options.smoke:
        options.candidates, options.reports = 1_600, 20_000
    show("selector: progress reports on one core", selector_rows(options.candidates, options.reports))
    if (Path(__file__).parent / "bench_allocation.py").exists():
        sys.path.insert(0, str(Path(__file__).parent))
        show("allocation on one core", import_module("bench_allocation").allocation_rows(options.smoke))


if __name__ == "__main__":
    main()
