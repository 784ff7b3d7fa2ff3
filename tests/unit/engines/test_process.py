"""Children that die with their parent, and the thread they are started from."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from darts_async.engines.process import LastingThread

_PARENT = """
import asyncio, multiprocessing, sys, time
from darts_async.engines.process import LastingThread, engine_child_dies_with_parent


def child(queue):
    engine_child_dies_with_parent()
    queue.put("armed")
    time.sleep(60)


def start():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get() == "armed"
    return process


async def main():
    thread = LastingThread("starter", start, lambda process: process.kill())
    process = await thread.result()
    await asyncio.sleep(0.2)  # long enough for a thread that ended to have taken its child along
    assert process.is_alive()
    print(process.pid, flush=True)
    if sys.argv[1] == "wait":
        await asyncio.sleep(60)
    thread.release()
    process.join(10)
    print("child ended with", process.exitcode, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
"""


def start_parent(folder: Path, mode: str) -> subprocess.Popen[str]:
    script = folder / "parent.py"
    script.write_text(_PARENT)
    return subprocess.Popen([sys.executable, str(script), mode], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's")
def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    with start_parent(tmp_path, "wait") as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        assert psutil.wait_procs([child], timeout=10)[1] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's")
def test_a_child_lives_as_long_as_the_thread_that_started_it(tmp_path: Path) -> None:
    with start_parent(tmp_path, "release") as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert parent.stdout.readline() == "child ended with -9\n"


async def test_the_thread_hands_over_what_it_made_and_what_it_raised() -> None:
    thread = LastingThread("ok", lambda: threading.current_thread().name, lambda _: None)
    assert await thread.result() == "ok"
    assert "ok" in {alive.name for alive in threading.enumerate()}
    thread.release()

    def fail() -> str:
        raise ValueError("no")

    failing = LastingThread("failing", fail, lambda _: None)
    with pytest.raises(ValueError, match="no"):
        await failing.result()
    failing.release()


async def test_what_is_made_too_late_is_discarded() -> None:
    may_go_on = threading.Event()
    discarded = threading.Event()

    def make() -> str:
        may_go_on.wait()
        return "late"

    thread = LastingThread("slow", make, lambda made: discarded.set() if made == "late" else None)
    waiting = asyncio.create_task(thread.result())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    thread.release()
    may_go_on.set()
    assert await asyncio.to_thread(discarded.wait, 10)
