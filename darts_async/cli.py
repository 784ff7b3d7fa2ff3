"""The command line. Imports are late on purpose: `--help` answers at once, `--dry-run` never sees torch.

Exit status: 0 done, 2 bad config or usage, 1 the run failed, 130 interrupted after a clean drain.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from darts_async import __version__
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from darts_async.launcher.preflight import Plan

_EXIT = {"done": 0, "failed": 1, "interrupted": 130}
_RACE_POINTS = 10
"""So many times is the policy scored along a cell of a race."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="darts-async")
def cli() -> None:
    """Train language models with RL from verifiable rewards, asynchronously.

    Generators, a selector, an allocator and a learner run as processes of their own and stream trajectories to each
    other. `darts-async up` starts them all.
    """


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--dry-run", is_flag=True, help="Check everything, print the resolved config, start nothing.")
@click.option("--resume", metavar="RUN", help="Go on with a run that was killed, interrupted or failed, in its folder.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG.toml] [--section.key VALUE ...]")
def up(arguments: tuple[str, ...], dry_run: bool, resume: str | None) -> None:
    """Start a topology and train.

    With no CONFIG this is the quickstart: a tiny policy that ships with the package learns chain arithmetic on two
    CPU cores. Any key of the config can be set on the command line:

    \b
        darts-async up --run.steps 10 --group.keep_longest 0
        darts-async up my.toml --learner.lr 1e-6 --queues.in_flight_groups 32

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
    from darts_async.config import load_config  # noqa: PLC0415 - late, see above
    from darts_async.launcher.preflight import check  # noqa: PLC0415

    plan = check(load_config(source, overrides), source)
    if dry_run:
        _show_plan(plan)
        return
    sys.exit(_EXIT[_run(plan)["status"]])


@cli.command(context_settings={"ignore_unknown_options": True})
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
    from pathlib import Path  # noqa: PLC0415 - late, see above

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


@cli.command(context_settings={"ignore_unknown_options": True})
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
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG.toml] [--section.key VALUE ...]")
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
    from pathlib import Path  # noqa: PLC0415 - late, see above

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


@cli.command(context_settings={"ignore_unknown_options": True})
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
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG.toml] [--section.key VALUE ...]")
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
    from darts_async.algorithms.chaos_schedule import ChaosPlan  # noqa: PLC0415 - late, see above
    from darts_async.config import load_config  # noqa: PLC0415
    from darts_async.launcher.chaos_command import chaos as run_it  # noqa: PLC0415
    from darts_async.launcher.preflight import check  # noqa: PLC0415

    wanted = ChaosPlan(
        kill=_names(kill),
        stop=_names(stop),
        delay=_names(delay),
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
def status(run: str, as_json: bool) -> None:
    """Ask a live run how it is: roles, queues, who waits for whom, the last warnings.

    RUN is a run folder. Exit status 1: the run is over, or does not answer.

    \b
        darts-async status runs/quickstart-1
    """
    from pathlib import Path  # noqa: PLC0415 - late, see above

    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher.status import status as show  # noqa: PLC0415

    sys.exit(show(Path(run).absolute(), Console(), as_json=as_json))


@cli.command()
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
    import asyncio  # noqa: PLC0415 - late, see above
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


@cli.command("set")
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
    from pathlib import Path  # noqa: PLC0415 - late, see above

    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher.status import set_live as change  # noqa: PLC0415

    sys.exit(change(Path(run).absolute(), assignments, Console()))


@cli.command()
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
    from pathlib import Path  # noqa: PLC0415 - late, see above

    from rich.console import Console  # noqa: PLC0415

    from darts_async.launcher import replay as ledger  # noqa: PLC0415

    result = ledger.replay(Path(run), Console(stderr=True))
    ledger.show(result, Console(), checked=check, as_json=as_json)
    sys.exit(1 if result.damage or (check and result.num_violations) else 0)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--no-engine", is_flag=True, help="Skip what needs vLLM: seconds in the place of a minute.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG.toml] [--section.key VALUE ...]")
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
    from darts_async.config import load_config  # noqa: PLC0415 - late, see above
    from darts_async.launcher.doctor import examine  # noqa: PLC0415

    sys.exit(examine(load_config(source, overrides), source, engine=not no_engine))


@cli.command("eval", context_settings={"ignore_unknown_options": True})
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
    from darts_async.launcher.eval_target import eval_config  # noqa: PLC0415 - late, see above
    from darts_async.launcher.evaluate import evaluate as measure  # noqa: PLC0415
    from darts_async.launcher.evaluate import output_file  # noqa: PLC0415

    for key, number in (("eval.prompts", prompts), ("eval.samples", 1 if greedy else samples)):
        if number is not None:
            overrides.append((key, str(number)))
    sys.exit(measure(eval_config(checkpoint, source, overrides), output_file(out), greedy=greedy))


def parse_arguments(arguments: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """Split `[CONFIG] [--section.key VALUE | --section.key=VALUE ...]`. Raises `click.UsageError`."""
    source: str | None = None
    overrides: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if source is not None or word.startswith("-"):
                raise click.UsageError(f"unexpected argument {word!r}: give one CONFIG and --section.key VALUE pairs")
            source = word
            continue
        key, equals, value = word[2:].partition("=")
        if "." not in key:
            raise click.UsageError(f"no such option --{key}: keys of the config are written --section.key VALUE")
        if not equals:
            if not rest:
                raise click.UsageError(f"--{key} needs a value")
            value = rest.pop(0)
        overrides.append((key, value))
    return source, overrides


def _resume(run: str, overrides: list[tuple[str, str]], *, dry_run: bool) -> None:
    from darts_async.launcher.resume import RunIsComplete, plan_resume  # noqa: PLC0415 - late, see above

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

    from darts_async.config.rules import warnings  # noqa: PLC0415
    from darts_async.launcher.preflight import create_run_folder  # noqa: PLC0415
    from darts_async.launcher.resume import prepare_run_folder  # noqa: PLC0415
    from darts_async.launcher.supervisor import launch  # noqa: PLC0415
    from darts_async.launcher.view import LiveView, PlainView  # noqa: PLC0415

    console = Console()
    (create_run_folder if plan.history is None else prepare_run_folder)(plan)
    config = plan.config
    console.print(f"run folder: {plan.paths.root}", soft_wrap=True, markup=False, highlight=False)
    for text in warnings(config):
        console.print(f"warning: {text}", soft_wrap=True, markup=False, highlight=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if console.is_terminal:
            bounds = {
                "in_flight_groups": config.queues.in_flight_groups,
                "ready_groups": config.queues.ready_groups,
            }
            done = 0 if plan.history is None else plan.history.version
            with LiveView(console, config.run.name, config.run.steps, bounds, done=done) as view:
                summary = runner.run(launch(plan, view))
        else:
            summary = runner.run(launch(plan, PlainView(console, config.run.steps)))
    _show_summary(console, plan, summary)
    return summary


def _show_plan(plan: Plan) -> None:
    from rich.console import Console  # noqa: PLC0415

    from darts_async.config import to_toml  # noqa: PLC0415
    from darts_async.config.rules import warnings  # noqa: PLC0415
    from darts_async.launcher.preflight import describe  # noqa: PLC0415

    console = Console()
    console.print(to_toml(plan.config), soft_wrap=True, markup=False, highlight=False)
    for label, text in describe(plan).items():
        console.print(f"# {label + ':':<12} {text}", soft_wrap=True, markup=False, highlight=False)
    for text in warnings(plan.config):
        console.print(f"# warning: {text}", soft_wrap=True, markup=False, highlight=False)


def _show_summary(console: Console, plan: Plan, summary: dict[str, Any]) -> None:
    lines = [f"{summary['status']}: {summary['steps']} steps in {summary['wall_s']:.0f} s"]
    if "reason" in summary and summary["status"] == "failed":
        lines.append(f"  {summary['reason']}")
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    if before and after:
        lines.append(
            f"  held-out reward {before['reward']:.3f} -> {after['reward']:.3f}, "
            f"mean length {before['response_length']:.1f} -> {after['response_length']:.1f} tokens"
        )
    rollouts, saved = summary["rollouts"], summary["tokens_saved_estimate"]
    if rollouts["generated"]:
        lines.append(
            f"  {rollouts['generated']} candidates: {rollouts['trained']} trained, {rollouts['rejected']} rejected, "
            f"{rollouts['cancelled_tail']} cancelled in the engine (about {saved or 0} tokens saved)"
        )
    lines.append(f"  summary: {plan.paths.summary}")
    if summary["status"] != "done":
        lines.append(f"  go on with it: darts-async up --resume {plan.paths.root}")
    if summary["status"] == "done":
        lines.append(f"  checkpoint: {plan.paths.checkpoints / ('step_' + str(summary['policy_version']))}")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def main() -> None:
    """Entry point of the console script."""
    try:
        cli(standalone_mode=False)
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


if __name__ == "__main__":
    main()
