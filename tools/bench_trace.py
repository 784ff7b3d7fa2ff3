"""What does the trace cost? Whole runs with and without it, one after the other and in alternating order.

`python tools/bench_trace.py [--pairs 3] [--steps 20] [--engine sim|vllm] [--key VALUE ...]`

Processor time is that of all processes of a run, their imports included; the time of a step is from the first to the
last line of `metrics.jsonl`, so without loading and without the evaluations. Ratios are of the pairs' sums: on a
machine that does other things as well a single pair tells little, least of all of time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from darts_async.tracing.merge import FOLDER, RESULT


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run."""

    cpu_s: float
    step_s: float
    tokens_per_s: float
    trace_bytes: int
    json_bytes: int


def measure(folder: Path, name: str, keys: list[str], *, traced: bool) -> Cost:
    """Run it to its end. Raises `RuntimeError` with its output when it fails."""
    command = [sys.executable, "-m", "darts_async.cli", "up", "--run.dir", str(folder), "--run.name", name, *keys]
    output = folder / f"{name}.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen([*command, "--metrics.trace", str(traced).lower()], stdout=sink, stderr=sink)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(output.read_text("utf-8", "replace"))
    run = folder / name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    span_s = lines[-1]["wall_s"] - lines[0]["wall_s"]
    tokens = json.loads((run / "summary.json").read_text("utf-8"))["tokens"]["generated"]
    raw = sum(path.stat().st_size for path in (run / FOLDER).glob("*")) if traced else 0
    merged = (run / RESULT).stat().st_size if traced else 0
    return Cost(used.ru_utime + used.ru_stime, span_s / (len(lines) - 1), tokens / span_s, raw, merged)


def main() -> None:
    """Measure, and print a line a run and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--engine", choices=("sim", "vllm"), default="sim")
    arguments, further = parser.parse_known_args()
    keys = ["--run.steps", str(arguments.steps), "--eval.prompts", "8", "--generator.engine", arguments.engine]
    if arguments.engine == "sim":
        keys += ["--generator.engine_args.token_s", "0.002", "--learner.lr", "0"]
    costs: dict[bool, list[Cost]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="darts-trace-") as folder:
        for pair in range(arguments.pairs):
            for traced in (pair % 2 == 0, pair % 2 == 1):
                cost = measure(Path(folder), f"{pair}-{'on' if traced else 'off'}", [*keys, *further], traced=traced)
                costs[traced].append(cost)
                print(
                    f"trace {'on ' if traced else 'off'}  {cost.cpu_s:7.1f} s of processors  {cost.step_s:.3f} s a step"
                )
    on, off = costs[True], costs[False]
    print(f"processors, on / off: {sum(c.cpu_s for c in on) / sum(c.cpu_s for c in off):.4f}")
    print(f"time of a step, on / off: {sum(c.step_s for c in on) / sum(c.step_s for c in off):.4f}")
    step_bytes = on[-1].trace_bytes / arguments.steps
    print(f"{step_bytes:.0f} bytes a step under {FOLDER}/, {on[-1].json_bytes / arguments.steps:.0f} in {RESULT}")


if __name__ == "__main__":
    main()
