"""A live run that is asked, told and stalled from outside, as a person would: `status`, `set`, and the watchdog."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest
from rich.console import Console

from darts_async.launcher.replay import replay, show
from darts_async.launcher.status import set_live
from darts_async.launcher.status import status as show_status
from darts_async.launcher.top import top as show_top

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]


def _typed(*arguments: str, status: int = 0) -> str:
    """On the command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "darts_async.cli", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def _darts(verb: str, run: Any, *words: str, status: int = 0) -> str:
    """The same in this process, which has all imports behind it."""
    console = Console(file=io.StringIO(), width=200)
    if verb == "set":
        assert set_live(run.run_folder, words, console) == status
    elif verb == "top":
        assert show_top(run.run_folder, console) == status
    elif verb == "status":
        assert show_status(run.run_folder, console, as_json="--json" in words) == status
    else:
        show(replay(run.run_folder, console), console, checked=True, as_json=True)
    return console.file.getvalue()


def _stops(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.send_signal(signal.SIGSTOP)


def _goes_on(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.send_signal(signal.SIGCONT)


def test_a_live_run_is_asked_told_watched_and_explains_its_stalls(up, on_terminal):
    patient = ("--launch.stall_s", "60", "--reward.timeout_s", "120", "--group.groups_per_step", "4")
    run = up.sim("--run.steps", "100000", *patient)
    folder = str(run.run_folder)
    run.wait_for("step      2/100000", 200)

    # Asked: every role has its say, and the launcher knows how full the queues are.
    asked = json.loads(_darts("status", run, "--json"))
    assert (asked["run"], asked["state"], asked["steps"]) == ("test", "running", 100000)
    assert {role["name"]: role["pid"] for role in asked["roles"]} == {
        f"{role}-0": run.role(role).pid for role in ("generator", "learner", "selector", "allocator")
    }
    # One that is about to act at this moment waits for nothing.
    assert {"learner-0", "selector-0"} <= {line.split()[0] for line in asked["waits"]}
    assert {queue["name"]: queue["bound"] for queue in asked["queues"]}["in_flight_groups"] == 16

    # Told: in force, written down, refused with the reason.
    told = _typed("set", folder, "queues.in_flight_groups=3", "launch.stall_s=4", "queues.min_chunk=2")
    assert "queues.in_flight_groups: 16 -> 3\nlaunch.stall_s: 60.0 -> 4.0\nqueues.min_chunk: 1 -> 2\n" in told
    assert "it is what groups under way were planned under" in _darts("set", run, "group.size=4", status=2)
    asked = json.loads(_darts("status", run, "--json"))
    assert asked["changed"] == {
        "queues.in_flight_groups": [16, 3],
        "queues.min_chunk": [1, 2],
        "launch.stall_s": [60.0, 4.0],
    }
    assert {queue["name"]: queue["bound"] for queue in asked["queues"]}["in_flight_groups"] == 3

    # Watched from another terminal: the bounds are those of now, and leaving leaves the run alone.
    picture = _darts("top", run)
    assert "of 100,000 " in picture
    assert re.search(r"in flight groups +\S+ +\d+ of 3\n", picture)
    assert "set: queues.in_flight_groups 16 -> 3, queues.min_chunk 1 -> 2" in picture
    with on_terminal("top", folder) as watched:
        watched.wait_for("learner-0")
        watched.wait_for("q leaves; the run goes on")
        watched.terminal.type(b"q")
        assert watched.wait(10) == 0
        assert "\x1b[?1049lleft test at step " in watched.output
        watched.terminal.assert_as_before()
    _more_steps(run, 1)

    # A role that is stopped: the kernel says so, and the chain leads to it.
    generator = [run.role("generator")]
    _stops(generator)
    run.wait_for("(launch.stall_s = 4): it comes down to generator-0, which gives no sign of life")
    shown = _typed("status", folder)
    assert re.search(r"it comes down to generator-0, which gives no sign of life: its process is stopped", shown)
    assert f"; who waited for whom: {folder}/logs/stalls.log\n" in shown
    _goes_on(generator)
    _more_steps(run, 2)

    # Roles that are alive, one of them stuck: its heartbeats say that it gets no further.
    workers = run.role("selector").children(recursive=True)
    assert workers
    _stops(workers)
    run.wait_for("(launch.stall_s = 4): it comes down to selector-0, which waits for the reward function on ")
    asked = json.loads(_darts("status", run, "--json"))
    assert asked["verdict"].startswith("it comes down to selector-0, which waits for the reward function on ")
    assert max(role["heard_s"] for role in asked["roles"]) < 20
    _goes_on(workers)
    _more_steps(run, 2)
    stalls = (run.run_folder / "logs" / "stalls.log").read_text()
    assert stalls.count("\nit comes down to generator-0, which gives no sign of life") == 1  # once for a stall
    assert stalls.count("\nit comes down to selector-0, which waits for the reward function") == 1
    for role in ("learner", "selector", "allocator", "generator"):
        log = (run.run_folder / "logs" / f"{role}-0.log").read_text()
        assert "where the tasks stand:\n" in log
        assert "most recent call first" in log  # its threads

    _darts("set", run, "run.max_wall_s=1")
    assert run.wait(60) == 0, run.output + run.logs()
    over = _darts("status", run, status=1)
    assert over.startswith("the run is over: done after ")
    assert json.loads(_darts("status", run, "--json", status=1))["status"] == "done"
    picture = _darts("top", run)
    assert re.search(r"^darts-async  test +done\n", picture)
    assert "\n\nthe run is over: done after " in picture
    read = json.loads(_darts("replay", run))
    assert [one["changes"] for one in read["settings"]] == [
        {"queues.in_flight_groups": [16, 3], "launch.stall_s": [60.0, 4.0], "queues.min_chunk": [1, 2]},
        {"run.max_wall_s": [None, 1.0]},
    ]
    assert run.summary["stalls"] == run.output.count("nothing has progressed for ")
    assert run.summary["set_live"]["queues.in_flight_groups"] == 3


def _wait_until(met, run, timeout_s=60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert run.process.poll() is None and time.monotonic() < deadline, run.output + run.logs()
        time.sleep(0.05)


def _more_steps(run, number: int) -> None:
    """Until that many more lines of steps are printed."""
    wanted = run.output.count("\nstep ") + number
    _wait_until(lambda: run.output.count("\nstep ") >= wanted, run)
