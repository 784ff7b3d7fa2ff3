"""`darts-async bench --live` as a person runs it, on the simulated engine: whole, resumed, interrupted, in trouble."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from darts_async.config.paths import RunPaths

pytestmark = pytest.mark.torch


class BenchProcess:
    """The command, its output in a file, and every process that it has started."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out = folder / "bench"
        self._output = folder / f"output{time.monotonic_ns()}.txt"
        command = [sys.executable, "-m", "darts_async.cli", "bench", "--live", "--seeds", "1", "--eval-prompts", "4"]
        engine = ["--generator.engine", "sim", "--generator.engine_args.token_s", "0.001"]
        with self._output.open("wb") as sink:
            self.process = subprocess.Popen(
                [*command, "--out", str(self.out), *engine, *arguments],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
            )

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8")

    def logs(self) -> str:
        return self.output + "".join(log.read_text("utf-8")[-3000:] for log in self.out.glob("*.log"))

    def wait(self, timeout_s: float = 90) -> int:
        return self.process.wait(timeout_s)

    def wait_for(self, found: Callable[[], Any], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not found():
            assert self.process.poll() is None, self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def summary(self, cell: str) -> dict[str, Any]:
        return json.loads((self.out / cell / "summary.json").read_text())


def assert_balanced(summary: dict[str, Any]) -> None:
    for books in (summary["tokens"], summary["rollouts"]):
        assert books["generated"] == sum(count for state, count in books.items() if state != "generated")


@pytest.fixture
def bench(tmp_path) -> Iterator[Callable[..., BenchProcess]]:
    started: list[BenchProcess] = []

    def start(*arguments: str) -> BenchProcess:
        started.append(BenchProcess(tmp_path, *arguments))
        return started[-1]

    yield start
    for run in started:
        with contextlib.suppress(psutil.Error):
            for child in run.children():
                child.kill()
        run.process.kill()
        run.process.wait()
        for weights in (RunPaths(cell).weights for cell in run.out.glob("*-seed0")):
            assert not weights.exists()


def test_a_table_and_its_resumption(bench, tmp_path):
    readme = tmp_path / "README.md"
    marks = [f"<!-- the table of `darts-async bench --live` {word} -->" for word in ("begins", "ends")]
    readme.write_text(f"head\n{marks[0]}\nold\n{marks[1]}\ntail\n")
    scored = ("--checkpoint.every_steps", "1")
    cells = ("--presets", "quickstart,grpo_sync", "--steps", "2", "--write-readme", str(readme), *scored)
    run = bench(*cells)
    assert run.wait() == 0, run.logs()
    assert run.output.count("the engine is ready") == 1
    assert "cell 2/2: grpo_sync-seed0 done" in run.output
    for name, staleness in (("quickstart-seed0", 1.0), ("grpo_sync-seed0", 0.0)):
        summary = run.summary(name)
        assert (summary["status"], summary["steps"], summary["rollouts"]["trained"]) == ("done", 2, 2 * 8 * 8)
        assert_balanced(summary)
        assert summary["staleness"]["max"] <= staleness
        assert summary["eval"]["after"]["policy_version"] == 2
        assert 0 < summary["bench"]["training_s"] < summary["wall_s"]
        assert 0 <= summary["bench"]["generator_idle"] < 1
        scores = summary["bench"]["held_out"]
        assert [score["version"] for score in scores] == [1, 2]
        # The simulated engine answers alike whatever its weights: what was sampled behind the run is what was in it.
        assert scores[0]["reward"] == scores[1]["reward"]
        lines = (run.out / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, 1]
    # The simulated engine ignores the weights: the second cell has started again from version 0 to get the same.
    assert run.summary("grpo_sync-seed0")["eval"] == run.summary("quickstart-seed0")["eval"]
    rows = list(csv.DictReader((run.out / "table.csv").read_text().splitlines()))
    assert [(row["preset"], row["status"]) for row in rows] == [("quickstart", "done"), ("grpo_sync", "done")]
    assert float(rows[1]["useful_share"]) == 1.0
    assert (run.out / "table.png").read_bytes().startswith(b"\x89PNG")
    table = (run.out / "table.md").read_text()
    assert readme.read_text() == f"head\n{marks[0]}\n{table}{marks[1]}\ntail\n"

    files = {path: path.stat().st_mtime_ns for path in run.out.glob("*-seed0/*")}
    again = bench(*cells)
    assert again.wait() == 0, again.logs()
    assert "2 of 2 cells are done already" in again.output
    assert "starting the engine" not in again.output
    assert files == {path: path.stat().st_mtime_ns for path in run.out.glob("*-seed0/*")}
    assert (run.out / "table.md").read_text() == table


@pytest.mark.long
def test_a_cell_whose_process_dies_is_reported_and_the_next_one_runs(bench):
    slow = ("--generator.engine_args.token_s", "0.05", "--eval-prompts", "0")
    run = bench("--presets", "quickstart,grpo_sync", *slow)
    run.wait_for(lambda: run.logs().count("generator-0 takes cancels") == 1)
    next(child for child in run.children() if "actors.bench" in child.cmdline()).kill()
    run.wait_for(lambda: "quickstart-seed0 failed" in run.output)
    run.wait_for(lambda: run.logs().count("generator-0 takes cancels") == 2)
    left = run.children()
    run.process.send_signal(signal.SIGINT)
    assert run.wait(40) == 130, run.logs()
    assert not psutil.wait_procs(left, timeout=5)[1]
    assert "status -9" in run.summary("quickstart-seed0")["reason"]
    interrupted = run.summary("grpo_sync-seed0")
    assert interrupted["status"] == "interrupted"
    assert_balanced(interrupted)
    assert "not in the tables: quickstart, seed 0: failed" in (run.out / "table.md").read_text()
    assert "Traceback" not in run.output


def test_a_hanging_cell_has_a_deadline(bench):
    run = bench("--presets", "quickstart,grpo_sync", "--cell-timeout", "1", "--generator.engine_args.token_s", "50")
    assert run.wait(60) == 1, run.logs()
    for name in ("quickstart-seed0", "grpo_sync-seed0"):
        assert f"{name} failed: TimeoutError: not done within --cell-timeout 1 s (generator-0: " in run.output
        assert run.summary(name)["status"] == "failed"


def test_what_the_simulated_engine_does_not_take_is_refused_before_anything_starts(bench):
    run = bench("--presets", "quickstart,grpo_sync", "--generator.engine_args.nosuch", "1")
    assert run.wait(30) == 2
    assert "generator.engine_args" in run.output
    assert not run.out.exists()


@pytest.mark.long
@pytest.mark.vllm
def test_an_engine_that_does_not_start_fails_its_cells_once(bench):
    # vLLM checks its own arguments, when it starts.
    run = bench(
        "--presets", "quickstart,grpo_sync", "--generator.engine", "vllm", "--generator.engine_args.nosuch", "1"
    )
    assert run.wait(100) == 1, run.logs()
    assert run.output.count("starting the engine") == 1
    assert "no engine" in run.summary("grpo_sync-seed0")["reason"]
