"""`darts-async eval` and `darts-async doctor` as a person runs them: results, refusals, Ctrl-C, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from darts_async.algorithms.seeding import rollout_seed
from darts_async.config import load_config
from darts_async.engines.sim_response import SimParams, sample_response
from darts_async.messages import RolloutRequest
from darts_async.tasks.prompt_set import load_prompts

_SIM = ("--generator.engine", "sim", "--generator.engine_args.token_s", "0.001")


class JobCommand:
    """A verb of the command line with its output in a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self._output = folder / "output.txt"
        self._shared = set(Path("/dev/shm").glob("darts-async-*"))
        with self._output.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "darts_async.cli", *arguments],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                cwd=folder,
            )
        self._descendants: set[psutil.Process] = set()

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8", "replace")

    def wait(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self._look()
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        return self.process.returncode

    def wait_for(self, found: Callable[[], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not found():
            self._look()
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def jobs(self) -> list[psutil.Process]:
        return [process for process in self._look() if "--plan" in _command(process)]

    def assert_nothing_is_left(self) -> None:
        _, alive = psutil.wait_procs(self._descendants, timeout=5)
        left = [process for process in alive if not _is_zombie(process)]  # killed; whoever inherits it has yet to reap
        assert not left, [_command(process) for process in left]
        mine = f" {self.process.pid} "
        for folder in set(Path("/dev/shm").glob("darts-async-*")) - self._shared:
            with contextlib.suppress(OSError):
                assert not f" {(folder / 'owner').read_text()}".startswith(mine)

    def kill(self) -> None:
        for process in self._look():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.kill()
        self.process.wait()

    def _look(self) -> set[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            self._descendants |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self._descendants


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., JobCommand]]:
    started: list[JobCommand] = []

    def start(*arguments: str) -> JobCommand:
        started.append(JobCommand(tmp_path, *arguments))
        return started[-1]

    yield start
    for job in started:
        job.kill()


def test_eval_measures_every_sample_of_every_prompt(command, tmp_path):
    job = command("eval", "quickstart", *_SIM, "--prompts", "6", "--samples", "3", "--model.max_response_tokens", "80")
    assert job.wait(60) == 0, job.output
    job.assert_nothing_is_left()
    result = json.loads((tmp_path / "eval.json").read_text())
    # The simulated engine answers as it says it will: what it says, asked directly.
    config = load_config(None, [("eval.prompts", "6")])
    lengths = []
    for index, prompt in enumerate(load_prompts(config).held_out):
        for number in range(1 + 3 * index, 4 + 3 * index):
            seed = rollout_seed(0, prompt.prompt_id, number)
            request = RolloutRequest(
                candidate_id=number,
                prompt_tokens=prompt.tokens,
                seed=seed,
                max_response_tokens=80,
                min_policy_version=0,
            )
            response = sample_response(SimParams(), request)
            lengths.append((response.tokens.size, response.capped))
    assert (result["prompts"], result["samples"], result["failed"]) == (6, 18, 0)
    assert result["response_length"] == pytest.approx(np.mean([size for size, _ in lengths]))
    assert result["capped_share"] == pytest.approx(np.mean([capped for _, capped in lengths]))
    assert 0 < result["capped_share"] < 1
    assert 0 <= result["pass_at_1"] <= 1 and result["temperature"] == 1.0
    assert sum(part["samples"] for part in result["strata"].values()) == 18
    assert "written: " in job.output


def test_eval_of_an_engine_that_dies_is_status_1_with_its_log(command, tmp_path):
    job = command("eval", "quickstart", *_SIM, "--generator.engine_args.dies_after_tokens", "300", "--prompts", "20")
    assert job.wait(60) == 1, job.output
    job.assert_nothing_is_left()
    assert "failed: the engine died" in job.output or "failed: died on purpose" in job.output, job.output
    assert "Traceback" not in job.output
    assert "dies_after_tokens" in (tmp_path / "eval.log").read_text()
    assert not (tmp_path / "eval.json").exists()


def test_eval_interrupted_writes_nothing(command, tmp_path):
    slow = ("--generator.engine_args.token_s", "1", "--prompts", "20")
    job = command("eval", "quickstart", "--generator.engine", "sim", *slow)
    job.wait_for(lambda: "sampling" in job.output)
    job.process.send_signal(signal.SIGINT)
    assert job.wait(20) == 130, job.output
    job.assert_nothing_is_left()
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]
    assert "Traceback" not in job.output


@pytest.mark.vllm
@pytest.mark.torch
def test_doctor_interrupted_while_the_engine_starts(command, tmp_path):
    job = command("doctor", "--run.dir", str(tmp_path / "runs"))
    job.wait_for(lambda: "starting the engine" in job.output)
    job.process.send_signal(signal.SIGINT)
    assert job.wait(60) == 130, job.output
    job.assert_nothing_is_left()
    assert "not everything was checked" in job.output and "Traceback" not in job.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
@pytest.mark.vllm
@pytest.mark.torch
@pytest.mark.timeout(300)
def test_the_doctor_passes_the_quickstart(command, tmp_path):
    job = command("doctor", "--run.dir", str(tmp_path / "runs"))
    assert job.wait(250) == 0, job.output
    job.assert_nothing_is_left()
    rows = [line.split("\u2502") for line in job.output.splitlines() if "mean |difference|" in line]
    assert [row[1].strip() for row in rows] == ["log-probs", "log-probs after a weight update"], job.output
    for row in rows:
        assert row[2].strip() == "pass"
        assert float(row[3].partition("mean |difference| ")[2].split()[0]) < 1e-4
    assert "0 failed" in job.output
