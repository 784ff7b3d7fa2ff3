"""The agent of a chaos run, on processes that only sleep; the run around them is played by the test."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path

import psutil
import pytest_asyncio
from rich.console import Console

from darts_async.algorithms.chaos_schedule import Fault
from darts_async.launcher.chaos import ChaosAgent, ChaosResult, Outcome
from darts_async.launcher.chaos_command import outcome_table
from darts_async.launcher.roles import RoleProcess
from darts_async.launcher.run_watch import RunWatch
from darts_async.launcher.view import PlainView


def stopped(*roles: RoleProcess) -> list[bool]:
    return [psutil.Process(role.process.pid).status() == psutil.STATUS_STOPPED for role in roles]


class Played:
    """A run of sleeping processes."""

    def __init__(self, folder: Path) -> None:
        self.watch = RunWatch(PlainView(Console(file=StringIO()), 100))
        self.started: list[RoleProcess] = []
        self._folder = folder
        self._step = 0

    async def start(self, role: str, rank: int = 0) -> RoleProcess:
        process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        self.started.append(RoleProcess(role, rank, self._folder / "log", process))  # type: ignore[arg-type]
        self.watch.roles(self.started[-1:])
        self.watch.ready(self.started[-1])
        return self.started[-1]

    def step(self) -> None:
        self.watch.step(self._step, {})
        self._step += 1


@pytest_asyncio.fixture
async def played(tmp_path: Path) -> AsyncIterator[Played]:
    run = Played(tmp_path)
    yield run
    for role in run.started:
        role.kill()
        await role.process.wait()


async def test_the_clock_of_a_kill_stops_with_a_step_after_the_role_is_ready_again(played: Played) -> None:
    learner, generator = await played.start("learner"), await played.start("generator")
    played.watch.begun()
    agent = ChaosAgent([Fault("kill", "generator-0", gap_s=0.0)], played.watch, recover_s=30)
    running = asyncio.create_task(agent.run())
    played.step()
    assert await generator.process.wait() == -signal.SIGKILL
    assert learner.process.returncode is None
    played.step()  # from what was there before: no recovery yet
    await asyncio.sleep(0.1)
    again = await played.start("generator")
    await asyncio.sleep(0.1)
    assert not running.done()
    played.step()
    assert await running
    (outcome,) = agent.outcomes
    assert outcome.back_s is not None and outcome.trained_s is not None
    assert 0.1 <= outcome.back_s < outcome.trained_s - 0.09
    assert played.watch.groups == {role.process.pid for role in (learner, generator, again)}


async def test_a_fault_waits_for_the_recovery_from_the_one_before(played: Played) -> None:
    roles = [await played.start("selector"), await played.start("learner")]
    schedule = [Fault("stop", "selector-0", 0.0, 0.2), Fault("delay", "learner-0", 0.0, 0.3)]
    agent = ChaosAgent(schedule, played.watch, recover_s=30)
    running = asyncio.create_task(agent.run())
    played.step()
    await asyncio.sleep(0.1)
    assert stopped(*roles) == [True, False]
    await asyncio.sleep(0.4)
    assert agent.outcomes[1].at_s is None  # nothing was trained since
    played.step()
    seen = set()
    for _ in range(60):
        await asyncio.sleep(0.01)
        seen.update(stopped(roles[1]))
    assert seen == {True, False}
    played.step()
    assert await running
    assert [outcome.back_s for outcome in agent.outcomes] == [None, None]


async def test_overlapping_faults_do_not_wait(played: Played) -> None:
    roles = [await played.start("selector"), await played.start("learner")]
    schedule = [Fault("stop", name, 0.0, 0.4) for name in ("selector-0", "learner-0")]
    agent = ChaosAgent(schedule, played.watch, recover_s=30, overlap=True)
    running = asyncio.create_task(agent.run())
    played.step()
    await asyncio.sleep(0.1)
    assert stopped(*roles) == [True, True]
    await asyncio.sleep(0.4)
    played.step()
    assert await running


async def test_a_recovery_that_takes_too_long_ends_it(played: Played) -> None:
    await played.start("learner")
    schedule = [Fault("kill", "learner-0", 0.0), Fault("kill", "learner-0", 0.0)]
    agent = ChaosAgent(schedule, played.watch, recover_s=0.2)
    played.step()
    assert await agent.run() is False
    assert "within 0.2 s" in agent.outcomes[0].note
    assert agent.outcomes[1].at_s is None


async def test_whoever_is_stopped_goes_on_when_the_agent_is_cancelled(played: Played) -> None:
    learner = await played.start("learner")
    agent = ChaosAgent([Fault("stop", "learner-0", 0.0, 60.0)], played.watch, recover_s=30)
    running = asyncio.create_task(agent.run())
    played.step()
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert stopped(learner) == [False]


def result_of(*outcomes: Outcome, status: str = "done", steps: int = 5, left: tuple[int, ...] = ()) -> ChaosResult:
    summary = {"status": status, "steps": steps, "ended_by": "steps", "reason": "", "wall_s": 60.0}
    return ChaosResult(summary, list(outcomes), 5, list(left))


def test_a_run_came_through_only_without_a_problem() -> None:
    kill = Fault("kill", "learner-0", 1.0)
    fine = [Outcome(kill, 1.0, 2.0, 3.0), Outcome(kill, 9.0, 4.0, 6.0)]
    assert result_of(*fine).problems == []
    assert result_of(*fine).as_json()["recovery_s"] == {"faults": 2, "recovered": 2, "median": 4.5, "worst": 6.0}
    assert "the run failed" in result_of(*fine, status="failed").problems[0]
    assert "4 of 5 steps" in result_of(*fine, steps=4).problems[0]
    assert "1 of 3 faults were not carried out" in result_of(*fine, Outcome(kill)).problems[0]
    assert "1 of 3 faults were not seen to be recovered from" in result_of(*fine, Outcome(kill, 2.0)).problems[0]
    assert "[77]" in result_of(*fine, left=(77,)).problems[0]


def test_recoveries_are_told_apart_by_role_and_kind() -> None:
    def outcome(kind: str, target: str, trained_s: float | None) -> Outcome:
        return Outcome(Fault(kind, target, 1.0), 1.0, None, trained_s)  # type: ignore[arg-type]

    found = result_of(
        outcome("kill", "generator-0", 5.0),
        outcome("stop", "generator-0", 0.5),
        outcome("kill", "generator-1", 2.0),
        outcome("kill", "generator-0", None),
    ).as_json(["a hole"])
    assert found["recovery_by_role_s"] == {
        "kill of generator": {"faults": 3, "recovered": 2, "median": 3.5, "worst": 5.0},
        "stop of generator": {"faults": 1, "recovered": 1, "median": 0.5, "worst": 0.5},
    }
    assert found["violations"] == ["a hole"]


def test_the_table_has_a_row_a_fault() -> None:
    console = Console(file=StringIO(), width=120)
    stop = Outcome(Fault("stop", "generator-1", 1.0, 5.0), 12.34, None, 0.56)
    console.print(outcome_table([stop, Outcome(Fault("kill", "learner-0", 1.0))]))
    text = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
    _, stopped, killed = text.splitlines()
    assert stopped.split() == ["stop", "generator-1", "12.3", "5", "0.6"]
    assert killed.split(maxsplit=2) == ["kill", "learner-0", "not carried out"]
