"""From the last token to training-ready, with and without token streaming: `python tools/bench_token_streaming.py`.

The same groups of eight responses. Streamed, all chunks but what is left of the last have been scored when the group
comes, as in a run whose torch thread has idle time; not streamed, nothing has. What is timed is what then remains: the
reference and proximal log-probs of the whole group. The two ways are interleaved; medians, and the median of the
ratios. The largest difference of a log-prob between the two ways is shown too.
"""

import argparse
import contextlib
import statistics
import sys
import time

import numpy as np
import torch

from darts_async.config import Config
from darts_async.engines.frozen import FrozenPolicies
from darts_async.engines.micro_batch import Row, rows_of
from darts_async.messages import TrainGroup, TrajectoryChunk, VersionSpan, candidate_id

PROMPT, SIZE = 48, 8
SHORT = (60, 70, 80, 90, 100, 110, 120)
"""Lengths of the other seven responses."""


def token_streaming_rows(model: str = "quickstart", smoke: bool = False) -> list[tuple[str, ...]]:
    """Return a head and one row per case: who is streamed, the longest response, chunk, both times, ratio, difference.

    `survivor` streams the long response alone, `all` streams all eight.
    """
    rows: list[tuple[str, ...]] = [
        ("streamed", "longest", "chunk", "without ms", "with ms", "without / with", "max difference")
    ]
    cases = [("survivor", n, 64) for n in ((128,) if smoke else (256, 512, 1024, 1900))]
    cases += [("all", n, 64) for n in ((128,) if smoke else (256, 1024))]
    for who, longest, chunk in cases:
        frozen = {streams: _frozen(model, chunk if streams else 0) for streams in (False, True)}
        times: dict[bool, list[float]] = {False: [], True: []}
        difference = 0.0
        for round_ in range(2 if smoke else 7):
            group = _group(round_, (*SHORT, longest))
            scored: dict[bool, list[Row]] = {}
            for streams, policies in frozen.items():
                scored[streams] = list(rows_of(group, np.zeros(SIZE, np.float32), mask_truncated=False))
                if streams:
                    _stream(policies, scored[streams] if who == "all" else scored[streams][-1:], chunk)
                _wait()
                began = time.perf_counter()
                policies.fill([group], scored[streams], lambda: True)
                _wait()
                times[streams].append(time.perf_counter() - began)
            difference = max(difference, *(_apart(a, b) for a, b in zip(scored[False], scored[True], strict=True)))
        without, streamed = (times[streams][1:] for streams in (False, True))  # the first round warms up
        ratio = statistics.median(a / b for a, b in zip(without, streamed, strict=True))
        figures = (1e3 * statistics.median(without), 1e3 * statistics.median(streamed))
        rows.append(
            (who, str(longest), str(chunk), *(f"{f:.1f}" for f in figures), f"{ratio:.1f}", f"{difference:.1e}")
        )
    return rows


def _frozen(model: str, chunk: int) -> FrozenPolicies:
    config = Config.model_validate(
        {
            "model": {"path": model, "max_response_tokens": 2000},
            "queues": {"chunk_tokens": chunk},
            "learner": {"kl_weight": 0.1, "updates_per_step": 2},
        }
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return FrozenPolicies(config, device, contextlib.nullcontext)


def _group(seed: int, lengths: tuple[int, ...]) -> TrainGroup:
    rng, total = np.random.default_rng(seed), sum(lengths)
    return TrainGroup(
        group_id=seed,
        prompt_id="p",
        step=0,
        prompt_tokens=rng.integers(4, 200, PROMPT).astype(np.int32),
        candidate_ids=tuple(candidate_id(seed, index) for index in range(SIZE)),
        lengths=np.array(lengths, np.int32),
        response_tokens=rng.integers(4, 200, total).astype(np.int32),
        behaviour_logprobs=np.zeros(total, np.float32),
        version_spans=((VersionSpan(0, 0),),) * SIZE,
        rewards=np.zeros(SIZE, np.float32),
        baseline_rewards=np.zeros(SIZE, np.float32),
        baseline_lengths=np.array(lengths, np.int32),
        capped=(False,) * SIZE,
    )


def _stream(policies: FrozenPolicies, rows: list[Row], chunk: int) -> None:
    """All whole chunks that come before the last token."""
    for start in range(0, max(row.response.size for row in rows), chunk):
        for row in rows:
            if start + chunk < row.response.size:
                prompt = row.prompt if start == 0 else row.prompt[:0]
                tokens = row.response[start : start + chunk]
                policies.put(
                    TrajectoryChunk(
                        candidate_id=row.candidate_id, start=start, prompt_tokens=prompt, response_tokens=tokens
                    )
                )
        policies.score_ahead(lambda: True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _apart(one: Row, other: Row) -> float:
    pairs = (
        (one.reference_logprobs, other.reference_logprobs),
        (one.proximal_logprobs, other.proximal_logprobs),
    )
    return max(float(np.abs(a - b).max()) for a, b in pairs if a is not None and b is not None)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one short case of each kind, to see that it runs")
    parser.add_argument("--model", default="quickstart", help="folder in Hugging Face format")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for row in token_streaming_rows(arguments.model, arguments.smoke):
        print("  ".join(cell.rjust(14) for cell in row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
