"""What a role has started is gone when it is said to be gone, wherever it has put itself."""

import asyncio
import subprocess
import sys

import psutil

from darts_async.launcher import process_group

_FAMILY = """
import subprocess, sys, time
child = "import time; time.sleep(60)"
plain = subprocess.Popen([sys.executable, "-c", child])
moved = subprocess.Popen([sys.executable, "-c", child], process_group=0)
print(plain.pid, moved.pid, flush=True)
time.sleep(60)
"""


async def test_children_die_with_their_leader_also_those_in_groups_of_their_own():
    leader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FAMILY, stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    children = [int(pid) for pid in (await leader.stdout.readline()).split()]
    assert set(process_group.members(leader.pid)) == {leader.pid, *children}
    assert await process_group.end(leader.pid, 10) == []
    alive = [psutil.Process(pid).status() for pid in children if psutil.pid_exists(pid)]
    assert set(alive) <= {psutil.STATUS_ZOMBIE}
    assert await asyncio.wait_for(leader.wait(), 5) == -9
    assert process_group.members(leader.pid) == []
    assert await process_group.end(leader.pid, 1) == []  # nobody is there: nothing happens
