"""Verbs that make many runs of one config, or a hard one: `bench`, `tune`, `chaos`."""

from __future__ import annotations

import sys

import click

from darts_async.cli.arguments import ConfigVerb, config_arguments, parse_arguments, parse_names

_RACE_POINTS = 10
"""So many times is the policy scored along a cell of a race."""


@click.command(cls=ConfigVerb, short_help="Compare presets and settings side by side.")
@click.option("--live", is_flag=True, help="On the real engine: every cell is a short training run.")
@click.option("--twin", default="", metavar="PROFILE", help="On virtual time, as a profile says (name or .toml file).")
@click.option("--presets", default="", help="Comma-separated configs to compare. Default: the published table's.")
@click.option("--variant", multiple=True, metavar="'NAME: KEY=VALUE, ...'", help="A named setting. Repeatable.")
@click.option("--grid", multiple=True, metavar="KEY=VALUE,...", help="Values of a key. Repeatable; lists in brackets.")
@click.option("--table", type=click.Choice(["presets", "off_policy", "race"]), default="presets", help="Which columns.")
@click.option("--seeds", type=click.IntRange(1, 100), default=2, show_default=True, help="Seeds 0, 1, ...")
@click.option("--steps", type=click.IntRange(1, 10_000), default=15, show_default=True, help="Learner steps of a cell.")
@click.option("--eval-prompts", type=click.IntRange(0), default=64, show_default=True, help="Held-out prompts.")
@click.option("--out", default="runs/bench", show_default=True, help="Folder of the table and of a run per cell.")
@click.option("--cell-timeout", type=click.FloatRange(1), default=300.0, show_default=True, help="Seconds for a cell.")
@click.option("--write-readme", default="", metavar="FILE", help="Also put the table between its marks in a file.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--section.key VALUE ...]")
def bench(
    arguments: tuple[str, ...],
    live: bool,
    twin: str,
    presets: str,
    variant: tuple[str, ...],
    grid: tuple[str, ...],
    table: str,
    seeds: int,
    steps: int,
    eval_prompts: int,
    out: str,
    cell_timeout: float,
    write_readme: str,
) -> None:
    """Compare presets side by side: tokens, times, lengths, rewards after the same number of trained groups.

    One engine start per seed. Cells that are done are kept: the same command goes on where it was stopped.

    \b
        darts-async bench --live --presets grpo_sync,darts_best --seeds 1 --steps 5

    A race asks how soon a held-out reward is reached: it writes checkpoints and scores them behind each run.

    \b
        darts-async bench --live --table race --presets grpo_sync,darts_best --steps 40

    Every preset can be run in several settings. Each --grid is a list of values of one key, all --variant together are
    one list of named settings of several keys, and there is a cell for each combination:

    \b
        darts-async bench --live --presets off_policy --table off_policy \\
          --variant 'eta 0: pipeline.mode=stream, pipeline.max_staleness=0' \\
          --variant 'eta 4: pipeline.mode=async, pipeline.max_staleness=4' \\
          --grid 'learner.correction=none,tis,["geometric_mask","tis"]'
    """
    source, overrides = parse_arguments(arguments)
    if source is not None:
        raise click.UsageError(f"unexpected argument {source!r}: name configs with --presets")
    if live == bool(twin):
        raise click.UsageError("say --live (every cell is run on the engine) or --twin PROFILE (on virtual time)")
    from pathlib import Path  # noqa: PLC0415 - late: see the package

    from darts_async.bench.columns import TABLES  # noqa: PLC0415
    from darts_async.bench.plan import PRESETS, make_cells  # noqa: PLC0415
    from darts_async.bench.variants import make_variants  # noqa: PLC0415
    from darts_async.launcher.bench import run_table  # noqa: PLC0415

    if table == "race" and live and not any(key == "checkpoint.every_steps" for key, _ in overrides):
        overrides = [*overrides, ("checkpoint.every_steps", str(max(1, steps // _RACE_POINTS)))]
    cells = make_cells(
        [name for name in presets.split(",") if name] or PRESETS,
        seeds=seeds,
        steps=steps,
        eval_prompts=eval_prompts,
        out=Path(out).absolute(),
        overrides=overrides,
        variants=make_variants(variant, grid),
        twin=bool(twin),
    )
    readme = Path(write_readme) if write_readme else None
    folder, form = Path(out).absolute(), TABLES[table]
    sys.exit(run_table(cells, folder, form, cell_timeout_s=cell_timeout, readme=readme, twin=twin))


@click.command(cls=ConfigVerb, short_help="Find depths and bounds on a twin, without a GPU.")
@click.option("--twin", default="cpu_quickstart", show_default=True, metavar="PROFILE", help="Name or .toml file.")
@click.option("--knobs", default="", metavar="NAME,...", help="What to vary. Default: in_flight,ready,budget,eta,rule.")
@click.option("--trials", type=click.IntRange(1, 10_000), default=60, show_default=True, help="Settings to try.")
@click.option("--seconds", type=click.FloatRange(1), default=180.0, show_default=True, help="No trial begins later.")
@click.option("--steps", type=click.IntRange(3, 1000), default=15, show_default=True, help="Learner steps of a trial.")
@click.option("--max-staleness", type=click.FloatRange(0), default=None, help="Of what is recommended.")
@click.option("--validate", type=click.IntRange(0, 20), default=0, help="Run so many of the best settings live, too.")
@click.option("--calibrate", multiple=True, metavar="RUN", help="Make a profile of finished runs instead. Repeatable.")
@click.option("--name", default="calibrated", show_default=True, help="Of the profile that --calibrate makes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the search.")
@click.option("--out", default="runs/tune", show_default=True, help="Folder of the table, the plot and the config.")
@config_arguments
def tune(
    arguments: tuple[str, ...],
    twin: str,
    knobs: str,
    trials: int,
    seconds: float,
    steps: int,
    max_staleness: float | None,
    validate: int,
    calibrate: tuple[str, ...],
    name: str,
    seed: int,
    out: str,
) -> None:
    """Find queue depths, budget and staleness bound for throughput, on a twin of the run: no GPU, minutes not hours.

    Every trial is a run of a few steps by the real actors on virtual time; engine, learner and response lengths are
    models out of a profile.

    \b
        darts-async tune my.toml --twin gpu_7b --knobs in_flight,budget,eta --trials 100

    A profile of your own machine and policy is made of finished runs; two that overlap differently are best:

    \b
        darts-async tune --calibrate runs/sync --calibrate runs/async --name mine --out profiles
        darts-async tune my.toml --twin profiles/mine.toml
    """
    source, own = parse_arguments(arguments)
    from pathlib import Path  # noqa: PLC0415 - late: see the package

    if calibrate:
        if source is not None or own:
            raise click.UsageError("--calibrate reads the runs' own configs: name no other")
        from darts_async.launcher.calibrate import calibrate_runs  # noqa: PLC0415

        sys.exit(calibrate_runs([Path(run) for run in calibrate], name, Path(out).absolute()))

    from darts_async.launcher.tune import tune as search  # noqa: PLC0415
    from darts_async.twin.search_space import DEFAULT_KNOBS  # noqa: PLC0415
    from darts_async.twin.tune_events import TunePlan  # noqa: PLC0415

    plan = TunePlan(
        config="",
        twin=twin,
        knobs=tuple(name for name in knobs.split(",") if name) or DEFAULT_KNOBS,
        trials=trials,
        time_limit_s=seconds,
        steps=steps,
        seed=seed,
        max_staleness=max_staleness,
    )
    sys.exit(search(source, own, plan, Path(out).absolute(), validate=validate))


@click.command(cls=ConfigVerb, short_help="Train under faults, and check that nothing is lost.")
@click.option("--kill", default="", metavar="ROLE,...", help="Roles whose processes are killed (SIGKILL).")
@click.option("--stop", default="", metavar="ROLE,...", help="Roles that stand still for a while (SIGSTOP).")
@click.option("--delay", default="", metavar="ROLE,...", help="Roles that are held up many times a second.")
@click.option("--kills", type=click.IntRange(1, 1000), default=1, show_default=True, help="Kills of each of them.")
@click.option("--stops", type=click.IntRange(1, 1000), default=1, show_default=True, help="Stops of each of them.")
@click.option("--delays", type=click.IntRange(1, 1000), default=1, show_default=True, help="Delays of each of them.")
@click.option("--stop-s", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="Length of a stop.")
@click.option("--delay-s", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="Length of delays.")
@click.option("--gap-s", type=click.FloatRange(0, 3600), default=2.0, show_default=True, help="Mean pause before one.")
@click.option("--recover-s", type=click.FloatRange(1, 3600), default=120.0, show_default=True, help="Longest recovery.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the schedule.")
@click.option("--overlap", is_flag=True, help="Do not wait for the recovery before the next fault.")
@config_arguments
def chaos(
    arguments: tuple[str, ...],
    kill: str,
    stop: str,
    delay: str,
    kills: int,
    stops: int,
    delays: int,
    stop_s: float,
    delay_s: float,
    gap_s: float,
    recover_s: float,
    seed: int,
    overlap: bool,
) -> None:
    """Train under faults, and check that nothing came of them: kills, stops and delays of the run's own processes.

    ROLE is generator (one of them is drawn), generator-1, selector, allocator, learner, or all. The order and the gaps
    follow from the seed; a fault comes when the run has recovered from the one before. Status 0 when the run reached
    its steps, every fault was recovered from, the ledger passes its check and no process is left.

    \b
        darts-async chaos --kill generator --kills 3 --generator.engine sim
        darts-async chaos my.toml --kill all --stop learner --stop-s 20 --run.steps 60
    """
    source, overrides = parse_arguments(arguments)
    from darts_async.algorithms.chaos_schedule import ChaosPlan  # noqa: PLC0415 - late: see the package
    from darts_async.config import load_config  # noqa: PLC0415
    from darts_async.launcher.chaos_command import chaos as run_it  # noqa: PLC0415
    from darts_async.launcher.preflight import check  # noqa: PLC0415

    wanted = ChaosPlan(
        kill=parse_names(kill),
        stop=parse_names(stop),
        delay=parse_names(delay),
        kills=kills,
        stops=stops,
        delays=delays,
        stop_s=stop_s,
        delay_s=delay_s,
        gap_s=gap_s,
        seed=seed,
        overlap=overlap,
    )
    if not (wanted.kill or wanted.stop or wanted.delay):
        raise click.UsageError("name who is to suffer: --kill, --stop or --delay")
    sys.exit(run_it(check(load_config(source, overrides), source), wanted, recover_s=recover_s))
