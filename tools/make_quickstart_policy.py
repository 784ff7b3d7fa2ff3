"""Make the quickstart policy from nothing: train, write the model folder, measure, write the model card.

Usage (two to three minutes on two cores)::

    python tools/make_quickstart_policy.py
    python tools/make_quickstart_policy.py --measure-only FOLDER

Seeded: on one machine the same seed, threads and library versions give the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from quickstart_policy.card import model_card
from quickstart_policy.measure import Measurement, measure
from quickstart_policy.tokenizer import END, PAD, build_tokenizer, write_tokenizer
from quickstart_policy.train import build_model, train
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from darts_async.config.paths import QUICKSTART_POLICY


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool."""
    options = _parse(arguments)
    console = Console()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    if options.measure_only is not None:
        _print(console, _measure(console, options.measure_only, options))
        return
    started = time.monotonic()
    parameters = _make(console, options.out, options.tokens, options.seed)
    training_s = time.monotonic() - started
    measured = _measure(console, options.out, options)
    _print(console, measured)
    card = model_card(measured, parameters=parameters, tokens=options.tokens, seed=options.seed, training_s=training_s)
    (options.out / "MODEL_CARD.md").write_text(card)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    console.print(f"{options.out}: {size / 1e6:.2f} MB; training took {training_s:.0f} s")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=QUICKSTART_POLICY, help="folder to write")
    parser.add_argument("--tokens", type=int, default=2_700_000, help="training tokens, both phases together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=128, help="held-out prompts to measure on")
    parser.add_argument("--cap", type=int, default=512, help="longest response to measure, in tokens")
    parser.add_argument("--samples", type=int, default=16, help="responses to each of them")
    parser.add_argument("--measure-only", type=Path, metavar="FOLDER", help="measure this model folder, train nothing")
    return parser.parse_args(arguments)


def _make(console: Console, folder: Path, tokens: int, seed: int) -> int:
    """Train and write the folder. Returns the number of parameters."""
    tokenizer = build_tokenizer(seed)
    model = build_model(tokenizer, seed)
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=tokens, loss=float("nan"))

        def report(seen: int, loss: float, _lr: float) -> None:
            progress.update(bar, completed=min(seen, tokens), loss=loss)

        train(model, tokenizer, tokens, seed, report)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.token_to_id(END), pad_token_id=tokenizer.token_to_id(PAD), do_sample=True
    )
    model.save_pretrained(folder)
    write_tokenizer(tokenizer, folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # the weights are written for their owner alone; a package is for everyone
    return sum(parameter.numel() for parameter in model.parameters())


def _measure(console: Console, folder: Path, options: argparse.Namespace) -> Measurement:
    with console.status("sampling the held-out prompts"):
        return measure(folder, prompts=options.prompts, samples=options.samples, max_tokens=options.cap)


def _print(console: Console, measured: Measurement) -> None:
    header, rows = measured.cells()
    console.print(f"held-out prompts, {measured.samples} samples each, temperature 1, cap {measured.max_tokens} tokens")
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in header:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"greedy accuracy {measured.accuracy_greedy:.3f}; longest prompt {measured.longest_prompt} tokens")


if __name__ == "__main__":
    main()
