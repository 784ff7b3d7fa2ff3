"""`up`: a run from its config, or on from its folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from darts_async.cli.arguments import ConfigVerb, config_arguments, parse_arguments

if TYPE_CHECKING:
    from darts_async.launcher.preflight import Plan

_EXIT = {"done": 0, "failed": 1, "interrupted": 130}


@click.command(cls=ConfigVerb, short_help="Start a run, or go on with one.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the resolved config, start nothing.")
@click.option("--resume", metavar="RUN", help="Go on with a run that was killed, interrupted or failed, in its folder.")
@config_arguments
def up(arguments: tuple[str, ...], dry_run: bool, resume: str | None) -> None:
    """Start a topology and train.

    With no CONFIG this is the quickstart: a tiny policy that ships with the package learns chain arithmetic on two
    CPU cores. Any key of the config can be set on the command line:

    \b
        darts-async up --run.steps 10 --group.keep_longest 0
        darts-async up my.toml --learner.lr 1e-6 --queues.in_flight_groups 32
        darts-async up --task.name my_task.py:MyTask

    With --resume a run goes on where it was: every step, prompt and group that was trained stays so, what was under
    way is sampled again. It keeps its config; limits, queue depths and [launch] may be set to something else.

    \b
        darts-async up --resume runs/quickstart-1
        darts-async up --resume quickstart-1 --run.max_wall_s none
    """
    source, overrides = parse_arguments(arguments)
    if resume is not None:
        if source is not None:
            raise click.UsageError(f"--resume takes the config of the run: leave {source!r} out")
        _resume(resume, overrides, dry_run=dry_run)
        return
    from darts_async.config import load_config  # noqa: PLC0415 - late: see the package
    from darts_async.launcher.preflight import check  # noqa: PLC0415

    plan = check(load_config(source, overrides), source)
    if dry_run:
        _show_plan(plan)
        return
    sys.exit(_EXIT[_run(plan)["status"]])


def _resume(run: str, overrides: list[tuple[str, str]], *, dry_run: bool) -> None:
    from darts_async.launcher.resume import RunIsComplete, plan_resume  # noqa: PLC0415 - late: see the package

    try:
        plan = plan_resume(run, overrides, click.echo)
    except RunIsComplete as complete:
        click.echo(str(complete))
        return
    if not dry_run:
        sys.exit(_EXIT[_run(plan)["status"]])
    if plan.lock is not None:
        plan.lock.release()
    _show_plan(plan)


def _run(plan: Plan) -> dict[str, Any]:
    import asyncio  # noqa: PLC0415

    import uvloop  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher.up import carry_out  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(carry_out(plan, Console()))


def _show_plan(plan: Plan) -> None:
    from rich.console import Console  # noqa: PLC0415

    from darts_async.config import to_toml  # noqa: PLC0415
    from darts_async.config.rules import warnings  # noqa: PLC0415
    from darts_async.launcher.preflight import describe  # noqa: PLC0415

    console = Console()
    console.print(to_toml(plan.config), soft_wrap=True, markup=False, highlight=False)
    for label, text in describe(plan).items():
        console.print(f"# {label + ':':<12} {text}", soft_wrap=True, markup=False, highlight=False)
    for text in [*warnings(plan.config), *plan.prompts.notes]:
        console.print(f"# warning: {text}", soft_wrap=True, markup=False, highlight=False)
