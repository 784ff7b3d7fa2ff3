"""Virtual time: it jumps, it keeps order, executors take what they charge, and a standstill is said."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts_async import clock
from darts_async.twin import virtual_time


def test_a_day_passes_at_once():
    async def main() -> tuple[float, float]:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time(), clock.now_s()

    began = time.monotonic()
    assert virtual_time.run(main) == (86_400, 86_400)
    assert time.monotonic() - began < 60


def test_the_clock_is_the_real_one_again_afterwards():
    async def main() -> None:
        await asyncio.sleep(1)

    virtual_time.run(main)
    assert abs(clock.now_s() - time.monotonic()) < 5


@given(st.lists(st.floats(0, 1e6), max_size=20))
def test_timers_go_off_in_order_at_their_times(delays: list[float]):
    async def main() -> list[tuple[float, float]]:
        went_off: list[tuple[float, float]] = []

        async def wait(delay: float) -> None:
            await asyncio.sleep(delay)
            went_off.append((delay, clock.now_s()))

        async with asyncio.TaskGroup() as tasks:
            for delay in delays:
                tasks.create_task(wait(delay))
        return went_off

    went_off = virtual_time.run(main)
    assert [delay for delay, _ in went_off] == sorted(delays)
    assert all(now == pytest.approx(delay, rel=1e-12, abs=1e-8) for delay, now in went_off)


def test_a_timeout_is_virtual_too():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        return clock.now_s()

    assert virtual_time.run(main) == pytest.approx(3600)


def test_an_executor_takes_what_is_charged_one_thing_after_another():
    done: list[tuple[str, float]] = []

    def work(seconds: float) -> float:
        virtual_time.charge(seconds)
        return seconds

    async def main() -> None:
        loop = asyncio.get_running_loop()
        thread, other = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

        async def call(name: str, executor: ThreadPoolExecutor | None, seconds: float) -> None:
            assert await loop.run_in_executor(executor, work, seconds) == seconds
            done.append((name, clock.now_s()))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call("first", thread, 5))
            tasks.create_task(call("second", thread, 2))
            tasks.create_task(call("elsewhere", other, 6))
            tasks.create_task(call("anywhere", None, 1))
            tasks.create_task(call("anywhere else", None, 1.5))
        await asyncio.to_thread(work, 3)
        done.append(("at last", clock.now_s()))

    virtual_time.run(main)
    assert done == [
        ("anywhere", 1),
        ("anywhere else", 1.5),
        ("first", 5),
        ("elsewhere", 6),
        ("second", 7),
        ("at last", 10),
    ]


def test_an_error_in_an_executor_comes_when_it_is_due():
    def fail() -> None:
        virtual_time.charge(4)
        raise OSError("no space")

    async def main() -> float:
        with pytest.raises(OSError, match="no space"):
            await asyncio.to_thread(fail)
        return clock.now_s()

    assert virtual_time.run(main) == 4


def test_time_is_charged_only_by_an_executors_work():
    async def main() -> None:
        with pytest.raises(RuntimeError, match="executor"):
            virtual_time.charge(1)
        with pytest.raises(ValueError, match="cannot take"):
            await asyncio.to_thread(virtual_time.charge, -1)

    virtual_time.run(main)
    with pytest.raises(RuntimeError):
        asyncio.run(asyncio.to_thread(virtual_time.charge, 1))


def test_a_standstill_is_said_at_once():
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(virtual_time.Standstill, match="no timer"):
        virtual_time.run(main)
