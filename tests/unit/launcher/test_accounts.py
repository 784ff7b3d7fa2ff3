"""What the launcher remembers of the roles: silence, starts, queues and their ages."""

import os
import signal
import subprocess
import sys

import pytest

from darts_async.config import load_config
from darts_async.launcher.accounts import Accounts
from darts_async.launcher.roles import RoleProcess
from darts_async.messages import Heartbeat, Wait


class Process:
    """One that is not there, unless it has a number."""

    returncode = None

    def __init__(self, pid: int = 1 << 30) -> None:
        self.pid = pid

    async def wait(self) -> int:
        return 0


def new_role(tmp_path, name, pid=1 << 30, **values):
    kind, _, rank = name.partition("-")
    role = RoleProcess(role=kind, rank=int(rank), log=tmp_path / name, process=Process(pid), started_s=0.0)
    for key, value in ({"ready": True, "state": "at work"} | values).items():
        setattr(role, key, value)
    return role


@pytest.fixture
def make(tmp_path):
    return lambda name, pid=1 << 30, **values: new_role(tmp_path, name, pid, **values)


def beat(role, *waits, **gauges):
    role.gauges = {name.replace("__", "/"): value for name, value in gauges.items()}
    return Heartbeat(role=role.role, rank=role.rank, state=role.state, gauges=role.gauges, waits=waits)


def test_ages_go_on_counting_between_heartbeats(make):
    accounts, learner = Accounts(), make("learner-0")
    accounts.heard(learner, beat(learner, Wait("selector-0", "waits for groups", 5.0)), 100.0)
    assert accounts.explain([learner], 102.0).sentences == ("learner-0 waits for groups (for 7 s)",)


def test_a_silent_role_is_the_root_and_its_last_word_is_kept(make):
    accounts, learner, generator = Accounts(), make("learner-0"), make("generator-0")
    accounts.heard(generator, beat(generator, Wait("", "decodes 3 candidates", 0.0)), 100.0)
    for now_s in (100.0, 110.0):
        accounts.heard(learner, beat(learner, Wait("generator-0", "waits", now_s - 100)), now_s)
    found = accounts.explain([learner, generator], 110.0)
    assert found.root == ("generator-0",)
    assert found.sentences[1] == (
        "generator-0 gives no sign of life; it said last that it decodes 3 candidates (for 10 s)"
    )


def test_the_kernel_says_that_a_process_is_stopped(make):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        accounts, role = Accounts(), make("selector-0", process.pid)
        accounts.heard(role, beat(role), 0.0)
        assert "its process is stopped by a signal" in accounts.explain([role], 10.0).verdict
    finally:
        process.kill()
        process.communicate()


def test_roles_that_start_and_roles_that_wait_for_them(make):
    accounts = Accounts()
    learner, allocator = make("learner-0", ready=False, state="loading the policy"), make("allocator-0", state="ready")
    selector = make("selector-0", ready=False, state="starting")
    away = make("generator-0", ready=False, gone=True, state="was killed by SIGKILL, restart 1 of 3 in 2 s")
    for role in (learner, allocator):
        accounts.heard(role, beat(role), 9.0)
    found = accounts.explain([learner, allocator, selector, away], 10.0)
    assert set(found.sentences) == {
        "learner-0 gets ready (loading the policy) (for 10 s)",
        "allocator-0 is ready and waits for learner-0 (for 1 s)",
        "generator-0 is not there: it was killed by SIGKILL, restart 1 of 3 in 2 s",
        "selector-0 is being started (for 10 s)",
    }


def test_a_new_start_has_no_past(make):
    accounts, role = Accounts(), make("generator-0")
    accounts.heard(role, beat(role, Wait("", "decodes", 0.0), queue__x__depth=3.0), 10.0)
    role.begins_anew(Process())
    (line,) = accounts.role_lines([role], 12.0)
    assert (line.restarts, line.heard_s, line.idle_ratio) == (1, None, None)


def test_a_queue_is_as_old_as_the_time_since_it_was_empty_and_two_ends_are_one(make):
    accounts, config = Accounts(), load_config(None)
    learner, selector = make("learner-0"), make("selector-0")
    for now_s, here, there in ((10.0, 1.0, 0.0), (15.0, 4.0, 2.0), (20.0, 3.0, 2.0)):
        accounts.heard(learner, beat(learner, queue__ready_groups__depth=here), now_s)
        accounts.heard(selector, beat(selector, queue__ready_groups__depth=there), now_s)
    (line,) = accounts.queue_lines([learner, selector], config, 21.0)
    assert (line.name, line.depth, line.busy_s) == ("ready_groups", 5.0, 11.0)
    assert line.bound == 16  # two steps of 8 groups: staleness is at most 1
    accounts.heard(learner, beat(learner, queue__ready_groups__depth=0.0), 22.0)
    assert accounts.queue_lines([learner, selector], config, 23.0)[0].busy_s == 8.0
