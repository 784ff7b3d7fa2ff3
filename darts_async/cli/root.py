"""The root of the command line: its verbs in the order of a first acquaintance, and the exit status of an error."""

from __future__ import annotations

import sys
from typing import Final

import click

from darts_async import __version__
from darts_async.cli.begin import completion, init
from darts_async.cli.examine import doctor, evaluate, replay
from darts_async.cli.experiments import bench, chaos, tune
from darts_async.cli.live import join, set_live, status, top
from darts_async.cli.report import report
from darts_async.cli.up import up
from darts_async.errors import ConfigError

__all__ = ["SECTIONS", "cli", "main"]

SECTIONS: Final[dict[str, tuple[click.Command, ...]]] = {
    "Begin and train": (up, init, doctor),
    "Watch and steer a run": (status, top, set_live, join),
    "See what came of it": (report, replay, evaluate),
    "Compare, tune, try hard": (bench, tune, chaos),
    "The shell": (completion,),
}
"""Every verb, under its heading in `darts-async --help`."""


class _Verbs(click.Group):
    """Lists its verbs under headings."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [verb.name or "" for verbs in SECTIONS.values() for verb in verbs]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for title, verbs in SECTIONS.items():
            rows = [(verb.name or "", verb.get_short_help_str(formatter.width - width - 6)) for verb in verbs]
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="darts-async")
def cli() -> None:
    """Train language models with RL from verifiable rewards, asynchronously.

    Generators, a selector, an allocator and a learner run as processes of their own and stream trajectories to each
    other. `darts-async up` starts them all.
    """


for _verbs in SECTIONS.values():
    for _verb in _verbs:
        cli.add_command(_verb)


def main() -> None:
    """Entry point of the console script."""
    try:
        cli(prog_name="darts-async", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
