"""The operating-system side of an engine: its children die with it, and a thread that outlives its start-up.

`PR_SET_PDEATHSIG` fires when the *thread* that started a child ends, not only its process. So whoever starts an engine
that asks for it has to do so in a thread that lives as long as the engine: `LastingThread`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from darts_async.parent_death import die_with_parent

T = TypeVar("T")

DIE_WITH_PARENT: Final = "DARTS_ASYNC_ENGINE_DIES_WITH_PARENT"
"""Environment variable by which a generator asks the engine processes it starts to die with their parent."""


def engine_child_dies_with_parent() -> None:
    """In a child of `multiprocessing`: have the kernel kill this process when its parent dies. Elsewhere: nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        die_with_parent(parent.pid)


class LastingThread(Generic[T]):
    """A thread that makes something off the event loop and then stays until it is released."""

    def __init__(self, name: str, make: Callable[[], T], discard: Callable[[T], None]) -> None:
        """`discard` gets what was made when it comes too late, after `release`."""
        self._name = name
        self._make = make
        self._discard = discard
        self._released = threading.Event()

    async def result(self) -> T:
        """Start the thread and return what it made, or raise what it raised. Call once.

        When this is cancelled, `make` still runs to its end: call `release`. The thread is a daemon, so that it does
        not hold up an exit.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(outcome: T | BaseException) -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        def work() -> None:
            outcome: T | BaseException
            try:
                outcome = self._make()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                outcome = error
            if self._released.is_set():
                if not isinstance(outcome, BaseException):
                    self._discard(outcome)
                return
            loop.call_soon_threadsafe(settle, outcome)
            del outcome
            self._released.wait()

        threading.Thread(target=work, name=self._name, daemon=True).start()
        return await future

    def release(self) -> None:
        """Let the thread end."""
        self._released.set()
