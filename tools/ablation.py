"""The paper's ablation and its rivals on a twin, as speed-ups over synchronous GRPO; a table for README.md.

`python tools/ablation.py [--profiles gpu_7b,gpu_14b] [--steps 8] [--readme README.md] [--out FOLDER]`

The speed-up is of the time of a step (all but the first), each of which trains on the same number of groups. Columns
without shaping say what scheduling alone brings; in `_shaped` profiles lengths follow what is trained on. Runs that are
done are kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from darts_async.bench.variants import Variant

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- ablation: make ablation -->", "<!-- end of ablation -->"
ALL = "selection.rule=all, group.keep_longest=0"
# Synchronous ones alternate on all devices; where generating and training overlap each has half of them.
WHOLE, HALF, QUARTER = (f"generator.replicas={{{share}}}" for share in ("whole", "half", "quarter"))
OURS = (
    "pipeline.mode=async, pipeline.max_staleness=1, selection.rule=shortest, group.keep_longest=0, "
    "allocation.budget=12, allocation.signal=mean_2std"
)
SETTINGS = {
    "synchronous": f"pipeline.mode=sync, {ALL}, {WHOLE}",
    "tail batching": (
        f"pipeline.mode=sync, pipeline.unfinished=defer, queues.oversample_groups={{more_groups}}, {ALL}, {WHOLE}"
    ),
    "oversample, first finished": (
        f"pipeline.mode=sync, selection.rule=first_finished, group.keep_longest=0, allocation.budget=10, {WHOLE}"
    ),
    "one step off": f"pipeline.mode=one_step_off, {ALL}, {HALF}",
    "one step off, a quarter generates": f"pipeline.mode=one_step_off, {ALL}, {QUARTER}",
    "streaming": f"pipeline.mode=stream, {ALL}, {HALF}",
    "streaming, both ends of 10": (
        f"pipeline.mode=stream, selection.rule=dual_end, allocation.budget=10, allocation.signal=uniform, {HALF}"
    ),
    "and adaptive (the paper's DARTS)": (
        "pipeline.mode=stream, selection.rule=dual_end, allocation.budget=12, allocation.min=8, allocation.max=16, "
        f"allocation.signal=std, allocation.prune_fraction=0.05, {HALF}"
    ),
    "asynchronous, shortest of 12 (ours)": f"{OURS}, {HALF}",
    "ours, a quarter generates": f"{OURS}, {QUARTER}",
}
PAPER = {
    "gpu_7b": {"and adaptive (the paper's DARTS)": 1.45, "tail batching": 1.3},
    "gpu_14b": {
        "tail batching": 1.4,
        "streaming": 1.09,
        "streaming, both ends of 10": 1.40,
        "and adaptive (the paper's DARTS)": 1.63,
    },
}
REPLICAS = {"gpu_7b": 16, "gpu_14b": 8}


def main() -> int:
    """Run what is missing, print the table, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", default="gpu_7b,gpu_7b_shaped,gpu_14b,gpu_14b_shaped")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--groups", type=int, default=256, help="groups of 8 a step")
    parser.add_argument("--out", default=str(ROOT / "runs" / "ablation"))
    parser.add_argument("--readme", default="", help="file with the marks between which the table is written")
    arguments = parser.parse_args()
    found = {}
    for profile in arguments.profiles.split(","):
        out = Path(arguments.out).absolute() / profile
        if (
            status := subprocess.run(command(profile, arguments.groups, arguments.steps, out), check=False).returncode
        ) != 0:
            return status
        found[profile] = {name: step_s(out, name) for name in SETTINGS}
    table = render(found, arguments)
    print(table)
    if arguments.readme:
        write(Path(arguments.readme), table)
    return 0


def command(profile: str, groups: int, steps: int, out: Path) -> list[str]:
    """The `bench --twin` that runs a profile's settings."""
    whole = REPLICAS[profile.removesuffix("_shaped")]
    places = {"whole": whole, "half": whole // 2, "quarter": whole // 4, "more_groups": groups // 4}
    own = ["--presets", "base", "--seeds", "1", "--steps", str(steps), "--eval-prompts", "0", "--out", str(out)]
    own += ["--group.size", "8", "--group.groups_per_step", str(groups), "--generator.max_num_seqs", "768"]
    own += ["--generator.stream_interval", "64", "--model.max_response_tokens", "10240"]
    own += ["--queues.in_flight_groups", str(2 * groups), "--queues.ready_groups", str(groups)]
    for name, setting in SETTINGS.items():
        own += ["--variant", f"{name.replace(',', ';')}: {setting.format(**places)}"]
    return [sys.executable, "-m", "darts_async.cli", "bench", "--twin", profile, "--table", "race", *own]


def step_s(out: Path, name: str) -> float:
    """Mean time of a step but the first."""
    folder = out / f"base-{Variant(name.replace(',', ';')).folder}-seed0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return float((lines[-1]["wall_s"] - lines[0]["wall_s"]) / (len(lines) - 1))


def render(found: dict[str, dict[str, float]], arguments: argparse.Namespace) -> str:
    """The table in Markdown."""
    head = ["setting"]
    for profile in found:
        head += [f"`{profile}`", *(["paper"] if profile in PAPER else [])]
    note = (
        f"Times faster than synchronous, mean over {arguments.steps - 1} steps of {arguments.groups} groups on virtual "
        "time; `_shaped`: lengths follow what is trained on (an assumption)."
    )
    lines = [
        note,
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
    ]
    for name in SETTINGS:
        row = [name]
        for profile, times in found.items():
            row.append(f"{times['synchronous'] / times[name]:.2f}")
            if profile in PAPER:
                row.append(str(PAPER[profile].get(name, "")))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def write(path: Path, table: str) -> None:
    """Put the table between its marks."""
    head, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no place for the table: add {BEGIN} and {END}")
    path.write_text(f"{head}{BEGIN}\n{table}{END}{tail}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
