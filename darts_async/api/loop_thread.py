"""Work in a thread with an event loop of its own.

So a notebook's running loop is in nobody's way, and a cell that computes for minutes does not make the launcher deaf to
its roles. Invariant: the thread lives for as long as the work: a role is killed when the thread that started it ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import uvloop

__all__ = ["LoopThread"]

Prepared = TypeVar("Prepared")
Outcome = TypeVar("Outcome")


class LoopThread(Generic[Prepared, Outcome]):
    """`prepare` outside of any loop, then `work` on what it returns, in one."""

    def __init__(
        self, prepare: Callable[[], Prepared], work: Callable[[Prepared], Coroutine[Any, Any, Outcome]]
    ) -> None:
        self.outcome: Future[Outcome] = Future()
        """What `work` has returned; or what it, or `prepare`, has raised."""
        self._prepare = prepare
        self._work = work
        self._lock = threading.RLock()  # a signal may come while one is being dealt with
        self._is_interrupted = False
        self._task: asyncio.Task[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="darts-async run")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def interrupt(self) -> None:
        """Cancel the work, every time; while it is prepared, as soon as it begins. From any thread."""
        with self._lock:
            self._is_interrupted = True
            if self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _run(self) -> None:
        try:
            prepared = self._prepare()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found = runner.run(self._interruptible(prepared))
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the outcome
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(found)

    async def _interruptible(self, prepared: Prepared) -> Outcome:
        with self._lock:
            task = self._task = asyncio.current_task()
            if self._is_interrupted and task is not None:
                asyncio.get_running_loop().call_soon(task.cancel)
        try:
            return await self._work(prepared)
        finally:
            with self._lock:
                self._task = None
