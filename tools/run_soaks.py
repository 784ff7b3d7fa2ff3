"""Long runs under faults, and the README's table of what came of them: `make soak`.

`python tools/run_soaks.py [--only NAME] [--quick] [--out FOLDER] [--readme FILE]`

Each soak writes `<out>/<name>.json`; the table is made of these files alone, so that `--only` measures one of them anew
and keeps the others' rows. `--quick` runs each for seconds, into a folder of its own and not into the README.
Status 0: all is as it must be; 1: something is not (it is said, and stands in the table); 2: there is no place for the
table; 130: interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import shutil
import signal
import sys
import time
from pathlib import Path

from soaks.result import Result
from soaks.table import check_place, put_into, render

ROOT = Path(__file__).resolve().parents[1]
SOAKS = {
    "cancels": "soaks.cancels",
    "rewards": "soaks.rewards",
    "slow-learner": "soaks.slow_learner",
    "chaos": "soaks.chaos",
    "kill-and-resume": "soaks.kill_and_resume",
    "fuzz": "soaks.fuzz",
}
"""In the order in which they are run, and their rows stand."""


def main() -> int:
    """Run what is wanted, write the table, return the exit status."""
    arguments = _arguments()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    out = Path(arguments.out or ROOT / "runs" / ("soaks-quick" if arguments.quick else "soaks")).absolute()
    readme = None if arguments.quick and not arguments.readme else Path(arguments.readme or ROOT / "README.md")
    wanted = arguments.only or list(SOAKS)
    if readme is not None:
        try:
            check_place(readme)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    logging.basicConfig(level=logging.ERROR)
    fine = True
    for number, name in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {name}", flush=True)
        try:
            result = _soak(name, out, quick=arguments.quick)
        except KeyboardInterrupt:
            print(f"interrupted in {name}; results so far are in {out}")
            return 130
        fine = fine and result.ok
    results = [found for name in SOAKS if (found := _read(out, name)) is not None]
    table = render(results)
    (out / "table.md").write_text(table, "utf-8")
    print(table)
    if readme is not None:
        put_into(readme, table)
        print(f"written into {readme}")
    return 0 if fine else 1


def _soak(name: str, out: Path, *, quick: bool) -> Result:
    module = importlib.import_module(SOAKS[name])
    said = _Said(name)
    began = time.monotonic()
    folder = out / "work"
    shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    result: Result = module.run(quick=quick, folder=folder, said=said)
    path = result.write(out)
    print(f"  {'fine' if result.ok else 'NOT FINE'} after {time.monotonic() - began:.0f} s: {path}", flush=True)
    for problem in result.problems:
        print(f"  {problem}", flush=True)
    return result


class _Said:
    """A line of progress, with the time."""

    def __init__(self, name: str) -> None:
        self._name, self._began = name, time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"  {time.monotonic() - self._began:6.1f} s  {text}", flush=True)


def _read(out: Path, name: str) -> Result | None:
    try:
        return Result.read(out / f"{name}.json")
    except FileNotFoundError:
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", choices=list(SOAKS), metavar="NAME", help=f"one of {', '.join(SOAKS)}"
    )
    parser.add_argument("--quick", action="store_true", help="seconds each, README untouched")
    parser.add_argument("--out", default="", help="folder of the results (default: runs/soaks)")
    parser.add_argument("--readme", default="", help="file with the table's marks (default: README.md)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
