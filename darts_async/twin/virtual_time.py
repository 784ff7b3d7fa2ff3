"""An event loop whose clock jumps to the next timer instead of waiting for it.

Everything that runs on it is ordinary asyncio code. Work that is handed to an executor (a thread for torch, a file's
writer) is done at once, on the spot, and takes as much virtual time as it says with `charge`; an executor does one
thing after another, as the single threads do that it stands for. Invariants: nothing here decides by the wall clock or
by the order in which threads happen to run, so a run is a function of its seed; time never goes back; when everybody
waits and no timer is left, that is said (`Standstill`) and not waited for.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from darts_async import clock
from darts_async.errors import RunFailed

__all__ = ["MeteredLoop", "Standstill", "VirtualLoop", "charge", "run"]

_T = TypeVar("_T")


class Standstill(RunFailed):
    """Every task waits for another one, and no timer will ever wake any of them."""


class _NothingToRead(selectors.BaseSelector):
    """Stands in for the operating system: waiting is what moves time on. There are no files or sockets to wait for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        # The loop registers the pipe by which threads would wake it.
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Standstill("on virtual time: every task waits for another one, and no timer is set")
        self.now_s += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. `run` makes one, uses it and closes it."""

    def __init__(self) -> None:
        self._waiting = _NothingToRead()
        self._free_at_s: dict[Any, float] = {}
        """When each executor has done what it was given so far."""
        self._charged_s: float | None = None
        """By the call that is being made; None outside of any."""
        super().__init__(self._waiting)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._waiting.now_s

    def charge(self, seconds: float) -> None:
        """The call to an executor that is being made takes this much longer."""
        if self._charged_s is None:
            raise RuntimeError("time can be charged only by what an executor was given to do")
        if seconds < 0:
            raise ValueError(f"a call cannot take {seconds} s")
        self._charged_s += seconds

    def run_in_executor(  # type: ignore[override] # typeshed's signature is of several Python versions
        self, executor: Any, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call it now; its result is there when the executor would have had it."""
        future: asyncio.Future[_T] = self.create_future()
        error: BaseException | None = None
        result: Any = None
        before, self._charged_s = self._charged_s, 0.0
        try:
            result = func(*args)
        except Exception as raised:  # noqa: BLE001 - whoever awaits the future gets it
            error = raised
        finally:
            charged_s, self._charged_s = self._charged_s, before
        done_s = self.time() + charged_s
        if executor is not None:  # the default executor has many threads
            done_s = self._free_at_s[executor] = max(self._free_at_s.get(executor, 0.0), self.time()) + charged_s

        def settle() -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        if done_s > self.time():
            self.call_at(done_s, settle)
        else:
            self.call_soon(settle)
        return future


def charge(seconds: float) -> None:
    """Say how long a call to an executor takes, from inside of it. Raises `RuntimeError` off virtual time."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError("time can be charged on virtual time only")  # noqa: TRY004 - no argument is of a wrong type
    loop.charge(seconds)


class MeteredLoop(VirtualLoop):
    """Also counts calls and processor time by whom they are for: what a control plane costs beside the time it has."""

    def __init__(self, whose: ContextVar[str]) -> None:
        super().__init__()
        self._whose = whose
        self.calls: Counter[str] = Counter()
        self.cpu_s: defaultdict[str, float] = defaultdict(float)

    def call_soon(  # type: ignore[override] # typeshed types the arguments one by one
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As always, and meter it."""
        context = copy_context() if context is None else context
        return super().call_soon(self._metered, context.get(self._whose, ""), callback, args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As always, and meter it."""
        context = copy_context() if context is None else context
        return super().call_at(when, self._metered, context.get(self._whose, ""), callback, args, context=context)

    def _metered(self, whose: str, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        began = time.perf_counter()
        try:
            callback(*args)
        finally:
            self.cpu_s[whose] += time.perf_counter() - began
            self.calls[whose] += 1


def run(main: Callable[[], Coroutine[Any, Any, _T]], loop_factory: Callable[[], VirtualLoop] = VirtualLoop) -> _T:
    """Run a coroutine to its end on virtual time, which begins at 0. Raises what it raises, and `Standstill`."""
    with asyncio.Runner(loop_factory=loop_factory) as runner, clock.reading(runner.get_loop().time):
        return runner.run(main())
