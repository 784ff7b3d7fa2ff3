"""The verb that shows what came of runs as a page: `report`."""

from __future__ import annotations

import click


@click.command(short_help="What came of runs, as one HTML page.")
@click.option(
    "--out", default=None, metavar="FILE", help="Default: report.html in the run folder; of several runs, here."
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(), metavar="RUN [RUN ...]")
def report(runs: tuple[str, ...], out: str | None) -> None:
    """Write what came of a run as one HTML file, which a browser opens without a network.

    RUN is a run folder, or its name in runs/. Rewards and lengths, where the tokens went, a timeline of the roles,
    queues, staleness, budgets and the config, each chart with a sentence on how to read it. Several runs (up to 8)
    share the charts. A run that goes on, failed or was cut off gets a report of what there is. The file is about 5 MB:
    it brings the library that draws.

    \b
        darts-async report runs/quickstart-1
        darts-async report runs/sync runs/async --out compare.html
    """
    import time  # noqa: PLC0415 - late, see above
    from pathlib import Path  # noqa: PLC0415

    from darts_async.report.write import find_folder, write_report  # noqa: PLC0415

    began_s = time.monotonic()
    path = write_report([find_folder(run) for run in runs], Path(out).absolute() if out else None)
    num_bytes = path.stat().st_size
    size = f"{num_bytes / 1e6:.1f} MB" if num_bytes > 1e6 else f"{num_bytes / 1e3:.0f} kB"
    click.echo(f"{path} ({size}, {time.monotonic() - began_s:.1f} s)")
