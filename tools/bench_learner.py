"""The learner's forward and backward pass beside the usual way, on the same model, data and loss in the same run.

    python tools/bench_learner.py [--smoke] [--model FOLDER] [--rounds N] [--memory-tokens N]

Tokens trained per second: `accumulate` with length-bucketed and with padding-free micro-batches, beside what
`transformers.Trainer` does with the same groups: `--baseline-rows` rows at a time in the order of arrival, padded to
their longest with an attention mask, logits of all positions, a log-softmax over all of them, gradients accumulated
over the step. The ways take turns and figures are medians over the rounds; on a CPU they are in processor seconds of
one compute thread, so that other work on the machine does not count. Gradients are compared first. Then peak memory at
a vocabulary of 151,936, each way in a fresh process.
"""

# ruff: noqa: SLF001 - the baseline is run on the trainer's own model and loss

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import transformers
from bench_logprob_memory import measure
from rich.console import Console
from rich.table import Table

from darts_async.config import Config
from darts_async.engines.loss_tokens import LossTokens
from darts_async.engines.micro_batch import Row, collate, rows_of
from darts_async.engines.trainer import PolicyTrainer, load_trainer
from darts_async.messages import TrainGroup, VersionSpan, candidate_id

VOCAB = 151_936
"""Qwen's."""
GROUP_SIZE = 8


@dataclass(frozen=True)
class Mix:
    """Log-normal response lengths, cut at a cap."""

    name: str
    median: float
    spread: float
    """Standard deviation of the logarithm."""
    cap: int
    prompt: int

    def groups(self, num_groups: int, vocab: int) -> list[TrainGroup]:
        """Draw groups of random tokens; rewards are a coin."""
        rng = np.random.default_rng(1)
        made = []
        for number in range(num_groups):
            drawn = np.exp(rng.normal(np.log(self.median), self.spread, GROUP_SIZE))
            lengths = np.clip(drawn, 2, self.cap).astype(np.int32)
            total = int(lengths.sum())
            rewards = rng.integers(0, 2, GROUP_SIZE).astype(np.float32)
            made.append(
                TrainGroup(
                    group_id=number,
                    prompt_id=f"p{number}",
                    step=0,
                    prompt_tokens=rng.integers(4, vocab, self.prompt).astype(np.int32),
                    candidate_ids=tuple(candidate_id(number, index) for index in range(GROUP_SIZE)),
                    lengths=lengths,
                    response_tokens=rng.integers(4, vocab, total).astype(np.int32),
                    behaviour_logprobs=np.full(total, -np.log(vocab), dtype=np.float32),
                    version_spans=((VersionSpan(0, 0),),) * GROUP_SIZE,
                    rewards=rewards,
                    baseline_rewards=rewards,
                    baseline_lengths=lengths,
                    capped=tuple(bool(length == self.cap) for length in lengths),
                )
            )
        return made


MIXES = [Mix("short (as quickstart)", 24, 0.5, 512, 14), Mix("long tail", 90, 1.0, 1500, 14)]


def trainer_style(trainer: PolicyTrainer, groups: Sequence[TrainGroup], rows_per_batch: int) -> int:
    """One step's gradient the usual way; return the tokens that went through the model."""
    model: Any = trainer._model
    rows: list[Row] = [
        row for group in groups for row in rows_of(group, trainer._advantages(group), mask_truncated=False)
    ]
    padded = 0
    for start in range(0, len(rows), rows_per_batch):
        part = rows[start : start + rows_per_batch]
        batch = collate(part, trainer._accelerator.device)
        width = batch.input_ids.shape[1]
        lengths = torch.tensor([row.num_tokens for row in part], device=batch.input_ids.device)
        mask = torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
        logits = model(input_ids=batch.input_ids, attention_mask=mask.long(), use_cache=False).logits
        logs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        every = logs.gather(-1, batch.input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        logprobs = torch.nn.functional.pad(every, (0, 1)).flatten()[batch.positions]
        tokens = LossTokens(
            policy=logprobs,
            behaviour=batch.behaviour_logprobs,
            proximal=logprobs.detach(),
            advantages=batch.advantages,
            responses=batch.responses,
            lengths=batch.lengths,
            ages=torch.zeros_like(batch.versions),
            current=torch.ones_like(batch.versions, dtype=torch.bool),
        )
        loss, _ = trainer._objective(tokens)
        loss.backward()
        trainer._optimiser.collect()
        padded += batch.input_ids.numel()
    return padded


def _seconds(trainer: PolicyTrainer, run: Callable[[], int]) -> tuple[float, int]:
    trainer._optimiser.drop()
    if not torch.cuda.is_available():
        start = time.process_time()
        padded = run()
        return time.process_time() - start, padded
    torch.cuda.synchronize()
    start = time.perf_counter()
    padded = run()
    torch.cuda.synchronize()
    return time.perf_counter() - start, padded


def speed(console: Console, model: str, mix: Mix, num_groups: int, rounds: int, baseline_rows: int) -> None:
    """Measure a mix and print its table."""
    learner = {"threads": 1, "advantage": "dr_grpo", "correction": "tis"}
    trainers = {
        packing: load_trainer(
            Config.model_validate({"model": _model(model), "learner": {**learner, "packing": packing}})
        )
        for packing in ("bucketed", "padding_free")
    }
    plain = trainers["bucketed"]
    groups = mix.groups(num_groups, plain._model.config.vocab_size)
    num_tokens = sum(int(group.lengths.sum()) for group in groups)

    def accumulate(packing: str, at_once: int) -> Callable[[], int]:
        def run() -> int:
            parts = (groups[start : start + at_once] for start in range(0, num_groups, at_once))
            return sum(trainers[packing].accumulate(part).padded_tokens for part in parts)

        return run

    few = max(1, num_groups // 4)
    ways: dict[str, tuple[PolicyTrainer, Callable[[], int]]] = {
        f"Trainer-style, {baseline_rows} rows": (plain, lambda: trainer_style(plain, groups, baseline_rows)),
        "bucketed, whole step": (plain, accumulate("bucketed", num_groups)),
        f"bucketed, {few} groups at a time": (plain, accumulate("bucketed", few)),
        "padding-free, whole step": (trainers["padding_free"], accumulate("padding_free", num_groups)),
        f"padding-free, {few} groups at a time": (trainers["padding_free"], accumulate("padding_free", few)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    padded: dict[str, int] = {}
    reference, worst = [], 0.0
    for name, (trainer, run) in ways.items():  # warms up, too
        _, padded[name] = _seconds(trainer, run)
        got = [gradient.float().clone() for gradient in trainer.gradients]
        reference = reference or got
        largest = [float(want.abs().max()) or 1.0 for want in reference]
        worst = max([worst, *(float((a - b).abs().max()) / c for a, b, c in zip(got, reference, largest, strict=True))])
    for _ in range(rounds):
        for name, (trainer, run) in ways.items():
            seconds[name].append(_seconds(trainer, run)[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = next(iter(medians.values()))
    lengths = np.concatenate([group.lengths for group in groups])
    table = Table(
        title=f"{mix.name}: {lengths.size} responses, {num_tokens:,} tokens (median {np.median(lengths):.0f}, longest "
        f"{lengths.max()}); gradients differ by {worst:.0e} of their largest"
    )
    for heading in ("way", "s", "tokens/s", "padding", "speed-up"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    real = num_tokens + mix.prompt * lengths.size
    for name, median in medians.items():
        waste = 1 - real / padded[name]
        table.add_row(name, f"{median:.3f}", f"{num_tokens / median:,.0f}", f"{waste:.0%}", f"{base / median:.2f}x")
    console.print(table)


def memory(console: Console, tokens: int, vocab: int, chunks: Sequence[int]) -> None:
    """Measure and print the peaks."""
    table = Table(title=f"Peak memory of {tokens:,} log-probs at a vocabulary of {vocab:,}, forward and backward")
    for heading in ("way", "MiB", "of naive"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    naive = measure("naive", tokens, vocab, tokens)
    table.add_row("naive logits", f"{naive / 2**20:,.0f}", "100%")
    for chunk in chunks:
        peak = measure("fused", tokens, vocab, chunk)
        table.add_row(f"chunks of {chunk}", f"{peak / 2**20:,.0f}", f"{peak / naive:.0%}")
    console.print(table)


def _model(path: str) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {"path": path, "dtype": "bfloat16" if cuda and path != "quickstart" else "float32"}


def main() -> int:
    """Print the machine and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, small sizes")
    parser.add_argument("--model", default="quickstart", help="Hugging Face folder")
    parser.add_argument("--groups", type=int, default=8, help="groups of 8 a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--baseline-rows", type=int, default=8, help="per_device_train_batch_size of the baseline")
    parser.add_argument("--memory-tokens", type=int, default=2048)
    args = parser.parse_args()
    if args.smoke:
        args.groups, args.rounds, args.memory_tokens = 2, 1, 256
    console = Console(width=110, highlight=False)
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    console.print(
        f"{device}, torch {torch.__version__}, transformers {transformers.__version__}; model {args.model}, "
        f"{args.groups} groups of {GROUP_SIZE}, {args.rounds} rounds, one compute thread on a CPU"
    )
    for mix in MIXES:
        speed(console, args.model, mix, args.groups, args.rounds, args.baseline_rows)
    memory(
        console,
        args.memory_tokens,
        20_000 if args.smoke else VOCAB,
        (8,) if args.smoke else (Config().learner.logprob_chunk_tokens, 256),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
