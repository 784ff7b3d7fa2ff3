"""Faults reach a run's own processes, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from darts_async.launcher import faults
from darts_async.launcher.roles import RoleProcess

SLEEPER = """
import subprocess
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
child.wait()
"""


async def started(folder: Path, *, own_group: bool = True) -> tuple[RoleProcess, int]:
    """A role that only sleeps, and its child."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SLEEPER, start_new_session=own_group, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    return RoleProcess("learner", 0, folder / "log", process), child


@pytest_asyncio.fixture
async def sleeper(tmp_path: Path) -> AsyncIterator[tuple[RoleProcess, int]]:
    role, child = await started(tmp_path)
    yield role, child
    role.kill()
    await role.process.wait()


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


async def test_a_kill_hits_the_role(sleeper: tuple[RoleProcess, int]) -> None:
    role, child = sleeper
    assert faults.living([role.process.pid]) == [role.process.pid, child]
    assert faults.kill(role) == role.process.pid
    assert await role.process.wait() == -9
    with pytest.raises(faults.NotOurs, match="has ended"):
        faults.kill(role)
    assert set(faults.living([role.process.pid])) <= {child}


async def test_who_is_frozen_stands_still_with_its_children_and_goes_on(sleeper: tuple[RoleProcess, int]) -> None:
    role, child = sleeper
    with contextlib.suppress(KeyboardInterrupt), faults.frozen(role) as pid:
        await asyncio.sleep(0.05)
        assert is_stopped(pid) and is_stopped(child)
        raise KeyboardInterrupt
    await asyncio.sleep(0.05)
    assert not is_stopped(pid) and not is_stopped(child)


async def test_who_is_killed_while_it_is_frozen_is_let_go(sleeper: tuple[RoleProcess, int]) -> None:
    role, _ = sleeper
    with faults.frozen(role):
        role.kill()
        await role.process.wait()


async def test_a_process_in_the_group_of_others_is_not_touched(tmp_path: Path) -> None:
    """Its group is the tests' own: a stop of it would stop them."""
    role, child = await started(tmp_path, own_group=False)
    try:
        with pytest.raises(faults.NotOurs, match="is not learner-0 of this run"):
            faults.pid_of(role)
    finally:
        os.kill(child, 9)
        await role.process.wait()


def test_a_process_of_another_parent_is_not_touched(tmp_path: Path) -> None:
    class Stranger:
        """What a role's process would be after its number went to somebody else."""

        returncode = None

        def __init__(self, pid: int) -> None:
            self.pid = pid

    shell = subprocess.Popen(["setsid", "sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    grandchild = int(shell.stdout.readline())
    try:
        with pytest.raises(faults.NotOurs):
            faults.kill(RoleProcess("learner", 0, tmp_path / "log", Stranger(grandchild)))  # type: ignore[arg-type]
        with pytest.raises(faults.NotOurs):
            faults.kill(RoleProcess("learner", 0, tmp_path / "log", Stranger(1)))  # type: ignore[arg-type]
        assert psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE
    finally:
        os.kill(grandchild, 9)
        shell.wait()
        shell.stdout.close()


def test_what_waits_to_be_reaped_does_not_live() -> None:
    process = subprocess.Popen(["true"], start_new_session=True)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert faults.living([process.pid]) == []
    process.wait()
