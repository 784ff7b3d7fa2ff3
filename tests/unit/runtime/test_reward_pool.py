"""The reward pool with real worker processes: nothing is lost, whatever a reward does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import uvloop

from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.errors import RunFailed
from darts_async.runtime import reward_process
from darts_async.runtime.reward_pool import RewardFailed, RewardPool
from darts_async.runtime.reward_worker import Setup
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer

Runner = Callable[[Coroutine[Any, Any, None]], None]

SETUP = Setup(task="chain_arithmetic", params={}, model_folder=str(QUICKSTART_POLICY))

ODD_WORKER = """
import os, signal, sys, time
from darts_async.runtime.reward_worker import main

def load(setup):
    if setup.task == "unloadable":
        raise ValueError("no such task")
    hoard = []
    def score(prompt_id, tokens):
        print("a task that prints must not break the frames")
        if prompt_id == "raise":
            raise KeyError("no answer")
        if prompt_id == "hang":
            time.sleep(3600)
        if prompt_id == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt_id == "exit":
            os._exit(3)
        if prompt_id == "garbage":
            os.write(REPLIES, b"\\x05\\x00\\x00\\x00hello")
        if prompt_id == "nan":
            return float("nan")
        if prompt_id == "text":
            return "not a number"
        if prompt_id == "pid":
            return os.getpid()
        if prompt_id == "leak":
            hoard.append(bytearray(os.urandom(1) * (48 << 20)))
            return os.getpid()
        return float(sum(tokens))
    return score

REPLIES = 3  # the first free descriptor: main() duplicates the replies there
main(load)
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def run_on(request: pytest.FixtureRequest) -> Runner:
    factory = None if request.param == "asyncio" else uvloop.new_event_loop

    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work)

    return run


@pytest.fixture
def odd_command(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "odd_worker.py"
    script.write_text(ODD_WORKER)
    return sys.executable, str(script)


def odd_pool(command: tuple[str, ...], *, workers: int = 1, timeout_s: float = 30.0, task: str = "odd") -> RewardPool:
    setup = Setup(task=task, params={}, model_folder="")
    return RewardPool(setup, workers=workers, timeout_s=timeout_s, command=command)


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


@pytest.fixture(autouse=True)
def strangers() -> Iterator[None]:
    """Children that other tests of this process have left to the interpreter (multiprocessing's resource tracker)."""
    _STRANGERS.update(process.pid for process in psutil.Process().children(recursive=True))
    yield
    _STRANGERS.clear()


_STRANGERS: set[int] = set()


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)} - _STRANGERS


def test_scores_the_real_task(run_on: Runner) -> None:
    task = load_task("chain_arithmetic", {})
    prompt = task.train_prompts()[0]
    tokenizer = ChatTokenizer(QUICKSTART_POLICY)
    texts = (f"#### {prompt.answer}", f"#### 1{prompt.answer}")
    right, wrong = (np.array(tokenizer._tokenizer.encode(text).ids, np.int32) for text in texts)
    expected = [task.reward(prompt, tokenizer.decode(ids.tolist())) for ids in (right, wrong)]

    async def work() -> None:
        pool = RewardPool(SETUP, workers=1, timeout_s=30)
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            scores = [(await pool.score(prompt.prompt_id, ids)).reward for ids in (right, wrong)]
            with pytest.raises(RewardFailed, match="gave no prompt 'no such prompt'") as unknown:
                await pool.score("no such prompt", right)
            await pool.close()
        assert scores == expected == [1.0, 0.0]
        assert unknown.value.kind == "raised"

    run_on(work())


def test_two_hundred_scores_of_which_some_raise_hang_or_kill_their_worker(
    run_on: Runner, odd_command: tuple[str, ...]
) -> None:
    kinds = {20: "raise", 40: "nan", 60: "die", 80: "hang", 100: "exit", 120: "text", 140: "garbage", 160: "raise"}
    expected = {
        "raise": "raised",
        "nan": "not_finite",
        "text": "raised",
        "hang": "timeout",
        "die": "died",
        "exit": "died",
        "garbage": "died",
    }

    async def work() -> None:
        pool = odd_pool(odd_command, workers=2, timeout_s=0.5)
        started_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            results = await asyncio.gather(
                *(pool.score(kinds.get(i, "fine"), tokens(i, 1)) for i in range(200)), return_exceptions=True
            )
            await pool.close()
        for i, result in enumerate(results):
            if i in kinds:
                assert isinstance(result, RewardFailed)
                assert result.kind == expected[kinds[i]], i
            else:
                assert result == (i + 1, {})
        assert pool.stats.scored == 192 and pool.stats.failed.total() == 8
        # Four workers were lost; the last of them need not have been replaced before the close.
        assert 5 <= pool.num_started <= 6
        assert time.monotonic() - started_s < 20
        assert not children()

    run_on(work())


def test_errors_say_what_happened(run_on: Runner, odd_command: tuple[str, ...]) -> None:
    async def work() -> None:
        pool = odd_pool(odd_command, timeout_s=0.3)
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            for prompt_id, text in (
                ("raise", "KeyError: 'no answer'"),
                ("nan", "the reward is nan"),
                ("hang", r"no score within reward\.timeout_s = 0\.3 s"),
                ("die", "killed by signal 9"),
                ("exit", "exit status 3"),
            ):
                with pytest.raises(RewardFailed, match=text):
                    await pool.score(prompt_id, tokens(1))
            await pool.close()

    run_on(work())


def test_a_worker_killed_while_idle_costs_no_candidate(run_on: Runner, odd_command: tuple[str, ...]) -> None:
    async def work() -> None:
        pool = odd_pool(odd_command)
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            pid = int((await pool.score("pid", tokens(1))).reward)
            os.kill(pid, signal.SIGKILL)
            while psutil.pid_exists(pid):  # noqa: ASYNC110 - another process's end is no event of ours
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # the end of its output takes two turns of the loop to be seen
            assert int((await pool.score("pid", tokens(1))).reward) != pid
            await pool.close()

    run_on(work())


def test_a_leaking_worker_is_replaced(odd_command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_process, "MAX_GROWTH_BYTES", 64 << 20)

    async def work() -> None:
        pool = odd_pool(odd_command)
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            pids = [(await pool.score("leak", tokens(1))).reward for _ in range(4)]
            await pool.close()
        assert pids[0] == pids[1] != pids[2] == pids[3]

    asyncio.run(work())


def test_a_task_that_cannot_be_loaded_is_an_error_at_the_start(run_on: Runner, odd_command: tuple[str, ...]) -> None:
    async def work() -> None:
        pool = odd_pool(odd_command, task="unloadable", workers=2)
        async with asyncio.TaskGroup() as tasks:
            with pytest.raises(RunFailed, match="ValueError: no such task"):
                await pool.start(tasks)
        assert not children()

    run_on(work())


def test_closing_ends_busy_and_idle_workers_and_everyone_who_waits(
    run_on: Runner, odd_command: tuple[str, ...]
) -> None:
    async def work() -> None:
        pool = odd_pool(odd_command, workers=2)
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            calls = [tasks.create_task(outcome(pool, "hang")) for _ in range(5)]
            while pool.waiting != 3:  # noqa: ASYNC110 - until both workers are busy
                await asyncio.sleep(0)
            started_s = time.monotonic()
            await pool.close()
            await pool.close()
            assert time.monotonic() - started_s < 1.0
            assert [await call for call in calls] == ["closed"] * 5
            assert await outcome(pool, "fine") == "closed"
        assert not children()

    run_on(work())


async def outcome(pool: RewardPool, prompt_id: str) -> str:
    try:
        await pool.score(prompt_id, tokens(1))
    except RewardFailed as failed:
        return failed.kind
    return "scored"


def test_a_caller_that_gives_up_does_not_disturb_the_others(run_on: Runner, odd_command: tuple[str, ...]) -> None:
    async def work() -> None:
        pool = odd_pool(odd_command)
        async with asyncio.TaskGroup() as tasks:
            await pool.start(tasks)
            calls = [asyncio.ensure_future(pool.score("fine", tokens(i))) for i in range(5)]
            await asyncio.sleep(0)
            calls[0].cancel()
            calls[3].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            await pool.close()
        assert [type(r) is asyncio.CancelledError for r in results] == [True, False, False, True, False]
        assert results[4] == (4.0, {})

    run_on(work())


def test_workers_die_with_a_parent_that_is_killed(odd_command: tuple[str, ...]) -> None:
    """SIGKILL while a worker hangs in a reward: it never sees its input end."""
    owner = f"""
import asyncio, sys
import numpy as np
from darts_async.runtime.reward_pool import RewardPool
from darts_async.runtime.reward_worker import Setup

async def work():
    pool = RewardPool(Setup(task="odd", params={{}}, model_folder=""), workers=1, timeout_s=99, command={odd_command!r})
    async with asyncio.TaskGroup() as tasks:
        await pool.start(tasks)
        print(int((await pool.score("pid", np.array([1], np.int32))).reward), flush=True)
        await pool.score("hang", np.array([1], np.int32))

asyncio.run(work())
"""
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait()
        worker.wait(timeout=5)  # raises when it is still there
        assert not worker.is_running()


def test_the_worker_imports_nothing_heavy() -> None:
    code = (
        "import sys, darts_async.runtime.reward_worker as w;"
        f"w.task_scorer(w.Setup(task='chain_arithmetic', params={{}}, model_folder={str(QUICKSTART_POLICY)!r}));"
        "print(sorted({'torch', 'transformers', 'vllm', 'zmq', 'pydantic'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
