"""Verbs of the first hour: `init` writes a run of one's own to begin with, `completion` teaches the shell the words."""

from __future__ import annotations

import click


@click.command(short_help="Write a config and a task of your own to begin with.")
@click.argument("folder", default=".", type=click.Path(file_okay=False), metavar="[FOLDER]")
def init(folder: str) -> None:
    """Write a starter: a config, and a task with prompts and a reward of its own. Both run as they are.

    FOLDER is made when missing. Nothing is overwritten: where one of its files is there already, none is written.

    \b
        darts-async init my-run
        cd my-run
        darts-async up my_run.toml
    """
    from pathlib import Path  # noqa: PLC0415 - late: see the package

    from darts_async.launcher.starter import write_starter  # noqa: PLC0415

    for line in write_starter(Path(folder)):
        click.echo(line)


@click.command(short_help="Complete verbs, config keys and values in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete verbs, options, config keys, their values and built-in configs.

    \b
        darts-async completion bash >> ~/.bashrc
        darts-async completion zsh >> ~/.zshrc
        darts-async completion fish > ~/.config/fish/completions/darts-async.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    from darts_async.cli.root import cli  # noqa: PLC0415 - it lists this verb

    found = get_completion_class(shell)
    assert found is not None, "one of click's own"
    click.echo(found(cli, {}, "darts-async", "_DARTS_ASYNC_COMPLETE").source())
