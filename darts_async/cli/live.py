"""Verbs for a run that is going on: `status`, `top`, `set`, `join`."""

from __future__ import annotations

import sys

import click


@click.command(short_help="How a live run is, and who waits for whom.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
def status(run: str, as_json: bool) -> None:
    """Ask a live run how it is: roles, queues, who waits for whom, the last warnings.

    RUN is a run folder. Exit status 1: the run is over, or does not answer.

    \b
        darts-async status runs/quickstart-1
    """
    from pathlib import Path  # noqa: PLC0415 - late: see the package

    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher.status import status as show  # noqa: PLC0415

    sys.exit(show(Path(run).absolute(), Console(), as_json=as_json))


@click.command(short_help="The live picture of a run, in another terminal.")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
def top(run: str) -> None:
    """Watch a run from another terminal, in the picture that `up` shows. It is only read: q or Ctrl-C leaves.

    RUN is a run folder. A run that is interrupted or killed is waited for and followed when it goes on; of one that is
    over the end is shown. Without a terminal the picture is printed once.

    \b
        darts-async top runs/quickstart-1
    """
    from pathlib import Path  # noqa: PLC0415 - late: see the package

    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher.top import top as watch  # noqa: PLC0415

    sys.exit(watch(Path(run).absolute(), Console()))


@click.command("set", short_help="Change settings of a live run.")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("assignments", nargs=-1, required=True, metavar="SECTION.KEY=VALUE ...")
def set_live(run: str, assignments: tuple[str, ...]) -> None:
    """Change settings of a live run: all of them, or none when one cannot be.

    Live are queues.in_flight_groups, queues.oversample_groups, queues.min_chunk, allocation.budget,
    pipeline.max_staleness, run.max_wall_s, run.max_trained_tokens, checkpoint.every_steps, checkpoint.recovery_steps
    and launch.stall_s. What is under way keeps what it was started with: a lower max_staleness holds for groups that
    start from then on. The change is written into the ledger; config.live.toml in the run folder has the config as it
    is now.

    \b
        darts-async set runs/quickstart-1 queues.in_flight_groups=24 pipeline.max_staleness=2
        darts-async set runs/quickstart-1 run.max_wall_s=none
    """
    from pathlib import Path  # noqa: PLC0415 - late: see the package

    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher.status import set_live as change  # noqa: PLC0415

    sys.exit(change(Path(run).absolute(), assignments, Console()))


@click.command(short_help="Add a generator to a live run.")
@click.option("--role", type=click.Choice(["generator"]), default="generator", show_default=True, help="What joins.")
@click.option("--keys", default="keys", show_default=True, metavar="FOLDER", help="Copy of the run's keys/join.")
@click.option("--model", default="", metavar="FOLDER", help="The policy on this host. Default: as in the run's config.")
@click.option("--devices", default="", metavar="'[0, 1]'", help="GPUs of this host to use. Default: all.")
@click.option("--dir", "folder", default="runs", show_default=True, help="Where the folder with its log is made.")
@click.option("--weights", type=click.Choice(["auto", "link"]), default="auto", help="link: never as files.")
@click.argument("address", metavar="tcp://HOST:PORT")
def join(role: str, keys: str, model: str, devices: str, folder: str, weights: str, address: str) -> None:
    """Add a generator to a live run, from another host or another shell.

    The run was started with launch.bind = tcp://HOST:PORT and launch.join of 1 or more. ADDRESS is that address as this
    host reaches it; FOLDER is a copy of the run folder's keys/join, which this user alone may read. What the run sends
    decides what is sampled here: join runs of people you trust.

    Exit status 0: the run is over; 1: the run refused, is gone, or the generator could not be kept alive.

    \b
        darts-async join tcp://10.0.0.5:5600 --keys ./join --model /models/policy
    """
    import asyncio  # noqa: PLC0415 - late: see the package
    from pathlib import Path  # noqa: PLC0415

    import uvloop  # noqa: PLC0415

    from darts_async.launcher.join import JoinRequest  # noqa: PLC0415
    from darts_async.launcher.join import join as take_part  # noqa: PLC0415

    assert role == "generator"
    request = JoinRequest(
        address=address,
        keys=Path(keys).absolute(),
        model=model,
        devices=devices,
        folder=Path(folder),
        over_link=weights == "link",
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(take_part(request, click.echo)))
