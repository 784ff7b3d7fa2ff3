"""Verbs that examine what is there: `doctor` a config, `replay` a ledger, `eval` a checkpoint."""

from __future__ import annotations

import sys

import click

from darts_async.cli.arguments import ConfigVerb, config_arguments, parse_arguments


@click.command(cls=ConfigVerb, short_help="Check a config before a run, with remedies.")
@click.option("--no-engine", is_flag=True, help="Skip what needs vLLM: seconds in the place of a minute.")
@config_arguments
def doctor(arguments: tuple[str, ...], no_engine: bool) -> None:
    """Check a config before a run: every finding with its figure and its remedy. Status 1 when a check fails.

    Tokenizer and ends of responses, lengths, sampling, versions, memory, disk and sockets; then the engine samples a
    few prompts and the learner scores the same tokens, before and after a swap of the weights.

    \b
        darts-async doctor
        darts-async doctor my.toml --sampling.temperature 0.7
        darts-async doctor my.toml --no-engine
    """
    source, overrides = parse_arguments(arguments)
    from darts_async.config import load_config  # noqa: PLC0415 - late: see the package
    from darts_async.launcher.doctor import examine  # noqa: PLC0415

    sys.exit(examine(load_config(source, overrides), source, engine=not no_engine))


@click.command("eval", cls=ConfigVerb, short_help="Measure a checkpoint on held-out prompts.")
@click.option("--config", "source", default=None, metavar="CONFIG", help="Default: of the checkpoint's run, if it has.")
@click.option("--prompts", type=click.IntRange(1), default=None, help="Held-out prompts. Default: eval.prompts.")
@click.option("--samples", type=click.IntRange(1), default=None, help="Samples per prompt. Default: eval.samples.")
@click.option("--greedy", is_flag=True, help="Temperature 0 in the place of sampling.temperature; one sample each.")
@click.option("--out", default=None, metavar="FILE", help="Where the result goes. Default: eval.json in this folder.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="CHECKPOINT [--section.key VALUE ...]")
def evaluate(
    arguments: tuple[str, ...],
    source: str | None,
    prompts: int | None,
    samples: int | None,
    greedy: bool,
    out: str | None,
) -> None:
    """Measure a checkpoint on held-out prompts: pass@1 with its standard error, response length, share at the cap.

    CHECKPOINT is a model folder in Hugging Face format, a run folder (its last checkpoint), or `quickstart`.

    \b
        darts-async eval runs/quickstart-1/checkpoints/step_32
        darts-async eval runs/quickstart-1 --samples 8 --out runs/quickstart-1
        darts-async eval /models/policy --config my.toml --prompts 500 --greedy
    """
    checkpoint, overrides = parse_arguments(arguments)
    if checkpoint is None:
        raise click.UsageError("name a CHECKPOINT: a model folder or a run folder")
    if greedy and samples not in {None, 1}:
        raise click.UsageError("--greedy gives the same answer every time: leave --samples out")
    from darts_async.launcher.eval_target import eval_config  # noqa: PLC0415 - late: see the package
    from darts_async.launcher.evaluate import evaluate as measure  # noqa: PLC0415
    from darts_async.launcher.evaluate import output_file  # noqa: PLC0415

    for key, number in (("eval.prompts", prompts), ("eval.samples", 1 if greedy else samples)):
        if number is not None:
            overrides.append((key, str(number)))
    sys.exit(measure(eval_config(checkpoint, source, overrides), output_file(out), greedy=greedy))


@click.command(short_help="Audit a run's ledger: every candidate and token.")
@click.option("--check", is_flag=True, help="Verify the books; exit status 1 names every violation (the first 20).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
def replay(run: str, check: bool, as_json: bool) -> None:
    """Read the ledger of a run: what became of every candidate and every token.

    RUN is a run folder. Works while the run goes on, and reads only.

    With --check: every candidate that was dispatched ended exactly once, every group was trained at most once, in a
    step that names it, policy versions increase by one, and tokens balance.

    \b
        darts-async replay runs/quickstart --check
    """
    from pathlib import Path  # noqa: PLC0415 - late: see the package

    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher import replay as ledger  # noqa: PLC0415

    result = ledger.replay(Path(run), Console(stderr=True))
    ledger.show(result, Console(), checked=check, as_json=as_json)
    sys.exit(1 if result.damage or (check and result.num_violations) else 0)
