"""Does the twin say what the machine does? The same settings live and on the twin, medians side by side.

`python tools/validate_twin.py [--twin cpu_quickstart] [--seeds 3] [--steps 15] [--readme README.md] [--out FOLDER]`

Nothing here was used to calibrate the profile: other depths, rules, bounds, budgets. A prediction counts as right when
it is within 15 % of the live median, or within twice the live spread (largest less smallest, over the median). Runs
that are done are kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from darts_async.bench.variants import Variant
from darts_async.twin.figures import Figures, figures_of

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- twin table: make twin -->", "<!-- end of twin table -->"
SETTINGS = {
    "4 groups in flight": "queues.in_flight_groups=4",
    "a survivor of the tail": "selection.rule=survivor, group.keep_longest=1",
    "staleness at most 2": "pipeline.max_staleness=2",
    "16 candidates": "allocation.budget=16",
    "on policy, streaming": "pipeline.mode=stream, pipeline.max_staleness=0",
}
FIGURES = (("tokens_per_s", "trained tokens/s", "{:,.0f}"), ("step_s", "step s", "{:.3f}"))
LIMIT = 0.15


def main() -> int:
    """Run what is missing, print the table, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twin", default="cpu_quickstart")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--out", default=str(ROOT / "runs" / "validate-twin"))
    parser.add_argument("--readme", default="", help="file with the marks between which the table is written")
    arguments = parser.parse_args()
    out = Path(arguments.out).absolute()
    common = ["--presets", "darts_best", "--seeds", str(arguments.seeds), "--steps", str(arguments.steps)]
    common += ["--eval-prompts", "0"]
    for name, setting in SETTINGS.items():
        common += ["--variant", f"{name}: {setting}"]
    for way, where in (("live", ["--live"]), ("twin", ["--twin", arguments.twin])):
        command = [sys.executable, "-m", "darts_async.cli", "bench", *where, *common, "--out", str(out / way)]
        if (status := subprocess.run(command, check=False).returncode) != 0:
            return status
    table = render(read(out / "live"), read(out / "twin"), arguments.seeds, arguments.steps, arguments.twin)
    print(table)
    if arguments.readme:
        write(Path(arguments.readme), table)
    return 0


def read(folder: Path) -> dict[str, list[Figures]]:
    """The figures of each setting's runs."""
    found: dict[str, list[Figures]] = {name: [] for name in SETTINGS}
    for name in SETTINGS:
        slug = Variant(name).folder
        for path in sorted(folder.glob(f"darts_best-{slug}-seed*/summary.json")):
            lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text("utf-8").splitlines()]
            found[name].append(figures_of(json.loads(path.read_text("utf-8")), lines))
    return found


def render(live: dict[str, list[Figures]], twin: dict[str, list[Figures]], seeds: int, steps: int, profile: str) -> str:
    """The table in Markdown."""
    note = (
        f"Settings that the profile `{profile}` was not made from, over `darts_best`: {steps} steps, median of {seeds} "
        f"seeds; the spread is largest less smallest over the median. Right: within {LIMIT:.0%}, or twice the spread."
    )
    lines = [
        note,
        "",
        "| setting | figure | live | spread | twin | error | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name in SETTINGS:
        for key, text, form in FIGURES:
            real = [getattr(figures, key) for figures in live[name]]
            told = [getattr(figures, key) for figures in twin[name]]
            if not real or not told:
                lines.append(f"| {name} | {text} | | | | | not run |")
                continue
            middle, said = statistics.median(real), statistics.median(told)
            spread, error = (max(real) - min(real)) / middle, said / middle - 1
            right = abs(error) <= max(LIMIT, 2 * spread)
            lines.append(
                f"| {name} | {text} | {form.format(middle)} | {spread:.0%} | {form.format(said)} | {error:+.0%} | "
                f"{'right' if right else 'wrong'} |"
            )
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
