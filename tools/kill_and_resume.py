"""Kill a whole run with SIGKILL at random moments, go on with it each time, and see that nothing came of it.

`python tools/kill_and_resume.py [CONFIG] [--section.key VALUE ...] --kills 20 [--seed 0] [--out FOLDER] [--engine sim]`

The run (`darts-async up`, one process a role) is killed while it starts or while it trains: all its processes at a
stroke, or the launcher alone, with which the others die. At the end its ledger must pass the check, every step have one
line of metrics, no draw of the prompt order be trained twice or passed over, and the summary agree with the ledger.
Where staleness is 0, and the engine deterministic, a run that was not broken must have trained on the same groups, step
for step: draws, prompts, kept candidates with their lengths and rewards. The status is 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from resuming.campaign import Campaign
from rich.console import Console
from rich.table import Table

_SIM = ("--generator.engine", "sim", "--generator.engine_args.token_s", "0.002", "--eval.prompts", "8")


def main() -> int:
    """Run it; print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/kill_and_resume"), help="emptied first")
    parser.add_argument("--engine", choices=("sim", "vllm"), default="sim")
    parser.add_argument("--starting-s", type=float, default=8.0, help="the first kill in a start is within this time")
    parser.add_argument("--training-s", type=float, default=4.0, help="one in training within this time of readiness")
    parser.add_argument("--compare", action="store_true", help="with an unbroken run: staleness 0, engine sim")
    arguments, config = parser.parse_known_args()
    console = Console()
    campaign = Campaign(
        arguments.out.absolute(),
        [*config, *(_SIM if arguments.engine == "sim" else ())],
        arguments.kills,
        arguments.seed,
        starting_s=arguments.starting_s,
        training_s=arguments.training_s,
    )
    campaign.run(lambda text: console.print(text, highlight=False))
    if arguments.compare and not campaign.wrong:
        campaign.compare(lambda text: console.print(text, highlight=False))
    _show(campaign, console)
    return 1 if campaign.wrong else 0


def _show(campaign: Campaign, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("start", "killed while", "who", "at s", "steps", "ready s", "first step s", ""):
        table.add_column(title, justify="left" if title in {"killed while", "who", ""} else "right")
    for row in campaign.rows:
        who = "" if row.phase in {"to the end", "ended"} else ("all" if row.everybody else "launcher")
        seconds = ["" if value is None else f"{value:.1f}" for value in (row.ready_s, row.trained_s)]
        table.add_row(str(row.number), row.phase, who, f"{row.at_s:.1f}", str(row.steps), *seconds, row.note)
    console.print(table)
    resumed = [row.trained_s for row in campaign.rows[1:] if row.trained_s is not None]
    if resumed:
        median, worst = statistics.median(resumed), max(resumed)
        console.print(f"from the resume to the first step: {median:.1f} s (median), {worst:.1f} s (worst)")
    for name, value in campaign.facts.items():
        console.print(f"{name}: {value}", highlight=False)
    for text in campaign.wrong:
        console.print(f"wrong: {text}", markup=False, highlight=False)
    console.print("nothing came of it" if not campaign.wrong else "something came of it")


if __name__ == "__main__":
    sys.exit(main())
