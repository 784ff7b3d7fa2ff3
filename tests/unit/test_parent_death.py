"""A child dies with its parent, also when the parent is gone before the child could ask for it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux")

CHILD = """
import sys, time
from darts_async.parent_death import die_with_parent
assert die_with_parent(*map(int, sys.argv[1:])) is True
print("up", flush=True)
time.sleep(60)
"""


def test_sigkill_of_the_parent_kills_the_child() -> None:
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {CHILD!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        child.wait(timeout=5)  # raises when it is still there
        assert not child.is_running()


def test_a_child_whose_parent_has_changed_exits() -> None:
    stranger = os.getppid()
    done = subprocess.run([sys.executable, "-c", CHILD, str(stranger)], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_child_whose_parent_is_the_expected_one_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, str(os.getpid())], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
