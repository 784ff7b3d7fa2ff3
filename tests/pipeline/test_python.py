"""Runs from Python: what ends them, and what is left. (`test_up` has a whole one, from a program without a guard.)"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import darts_async
from darts_async.errors import ConfigError, RunFailed, RunInterrupted

pytestmark = pytest.mark.torch

_SIM = {"engine": "sim", "engine_args": {"token_s": 0.002}}


def _num_begun(folder: Path) -> int:
    """Runs whose roles are all under way."""
    return len(list(folder.glob("*/logs/allocator-0.log")))


def _num_made(folder: Path) -> int:
    """Run folders."""
    return len(list(folder.iterdir()))


@contextlib.contextmanager
def _pressed_when(is_time: Callable[[], bool]) -> Iterator[None]:
    """Ctrl-C, once it is time."""
    over = threading.Event()

    def press() -> None:
        while not over.wait(0.02):
            if is_time():
                os.kill(os.getpid(), signal.SIGINT)
                return

    presser = threading.Thread(target=press)
    presser.start()
    try:
        yield
    finally:
        over.set()
        presser.join()


def _statuses(folder: Path) -> list[str]:
    return sorted(darts_async.Result.read(run).status for run in folder.iterdir())


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


async def test_a_run_that_fails_within_a_running_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunFailed, match=r"launch.ready_timeout_s = 0.2 s.*\(run folder: ") as failed:
        darts_async.run(generator=_SIM, run__dir=str(tmp_path), launch__ready_timeout_s=0.2, progress=False)
    folder = failed.value.folder
    assert folder is not None and folder.parent == tmp_path
    assert darts_async.Result.read(folder).status == "failed"
    assert capsys.readouterr() == ("", "")
    assert _children() == []


async def test_to_be_cancelled_is_to_drain(tmp_path: Path) -> None:
    """Two at once, of one name to the second: one is cancelled, the other one goes on to its own end."""
    config = {"extends": "quickstart", "generator": _SIM, "run": {"dir": str(tmp_path)}}
    ticks = 0
    first = asyncio.create_task(darts_async.arun(config, progress=False))
    second = asyncio.create_task(darts_async.arun(config, launch__ready_timeout_s=1.0, progress=False))
    # On a busy machine the second one may be over before all of its roles are under way.
    while not (_num_made(tmp_path) == 2 and (_num_begun(tmp_path) == 2 or second.done())):
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 1, "the loop went on meanwhile"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(RunFailed, match=r"launch\.ready_timeout_s"):
        await second
    assert _statuses(tmp_path) == ["failed", "interrupted"]
    assert _children() == []


def test_ctrl_c_drains_and_stops_what_was_to_come(tmp_path: Path) -> None:
    """In the main thread, as a notebook's cells and scripts are; its handlers are as they were afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with _pressed_when(lambda: _num_begun(tmp_path) == 1), pytest.raises(RunInterrupted) as interrupted:
        darts_async.run(generator=_SIM, run__dir=str(tmp_path), progress=False)
    assert isinstance(interrupted.value, KeyboardInterrupt)
    assert interrupted.value.folder is not None
    assert f"go on with it: darts_async.run(resume='{interrupted.value.folder}')" in str(interrupted.value)
    assert darts_async.Result.read(interrupted.value.folder).status == "interrupted"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert _children() == []


def test_what_is_wrong_with_a_config_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.dir") as refused:
        darts_async.run({"run": {"dir": "/proc/none"}, "generator": _SIM})
    assert refused.value.key == "run.dir"
    with pytest.raises(ConfigError, match="takes the config of the run"):
        darts_async.run("quickstart", resume=tmp_path)
    with pytest.raises(ConfigError, match="no such run folder"):
        darts_async.run(resume=tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_one_run_after_the_other_and_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"generator": _SIM, "run__dir": str(tmp_path), "eval__prompts": 8}
    results = [darts_async.run(run__steps=2, learner__lr=lr, progress=False, **common) for lr in (0.0, 1e-4)]
    assert [result.status for result in results] == ["done", "done"]
    assert len({result.folder for result in results}) == 2
    on = darts_async.run(resume=results[0].folder, run={"steps": 4})
    assert (on.folder, on.steps, on.resumes, len(on.metrics())) == (results[0].folder, 4, 1, 4)
    assert "step 4/4" in capsys.readouterr().out
    again = darts_async.run(resume=results[0].folder)
    assert again.summary == on.summary
    assert "the run is complete" in capsys.readouterr().out
    assert results[1].report().is_file()
    with (
        _pressed_when(lambda: any(path.stat().st_size for path in tmp_path.glob("mine/metrics.jsonl"))),
        pytest.raises(RunInterrupted),
    ):
        darts_async.run(run={"name": "mine", "steps": 10_000}, progress=False, generator=_SIM, run__dir=str(tmp_path))
    drained = darts_async.Result.read(tmp_path / "mine")
    assert drained.status == "interrupted" and drained.rollouts["trained"]
    assert drained.rollouts["generated"] == sum(n or 0 for state, n in drained.rollouts.items() if state != "generated")
    assert _children() == []
