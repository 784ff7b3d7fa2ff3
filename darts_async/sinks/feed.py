"""One sink behind a bounded queue and a thread of its own, so that whatever it does the run goes on.

Invariants: `put` returns at once; at most so many lines wait; a sink that cannot be made is asked nothing more, one
that fails now and then is asked again; a person is told of the first failure and of the first line that found no room,
and every line the sink did not get is counted. The thread is a daemon: one that hangs does not keep the process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from darts_async.messages import EvalResult
from darts_async.owned_files import open_log
from darts_async.sinks.base import MakeSink, Sink, SinkRun

__all__ = ["LOG", "SinkFeed"]

LOG: Final = "sinks.log"
"""In the run's logs: the whole of the first failure of each sink."""

_METHODS: Final = ("line", "evaluated", "ended", "close")
_Call: TypeAlias = Callable[[Sink], None]
_LAST_WORDS: Final = 4
"""Places beyond the bound for what comes once: scores, the summary, the end."""


class SinkFeed:
    """Of one sink. Its methods belong to the run's thread, `warn` and `over` are called in the sink's."""

    def __init__(
        self,
        name: str,
        make: MakeSink,
        run: SinkRun,
        *,
        bound: int,
        warn: Callable[[str], None],
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """`over`: the thread is at its end."""
        self.name = name
        self.num_lost = 0
        """What it did not get, or failed to take."""
        self._make = make
        self._run = run
        self._bound = bound
        self._warn = warn
        self._over = over
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._failed = self._was_full = False
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Lines that wait for it."""
        return self._calls.qsize()

    @property
    def is_working(self) -> bool:
        """Whether it was started and is not done: it is at work, or hangs."""
        return self._thread.ident is not None and not self._ended.is_set()

    def start(self) -> None:
        """Begin to make the sink."""
        self._thread.start()

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink.line`."""
        self._put(lambda sink: sink.line(step, values), self._bound)

    def evaluated(self, result: EvalResult) -> None:
        """See `Sink.evaluated`."""
        self._put(lambda sink: sink.evaluated(result), self._bound + _LAST_WORDS)

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Nothing more comes: the summary, if there is one, and the end. The sink takes what waits first."""
        if summary is not None:
            self._put(lambda sink: sink.ended(summary), self._bound + _LAST_WORDS)
        self._calls.put(None)

    def _put(self, call: _Call, bound: int) -> None:
        if self._calls.qsize() < bound:
            self._calls.put(call)
            return
        self._lost()
        if not self._was_full:
            self._was_full = True
            self._warn(
                f"the sink `{self.name}` does not keep up: {bound} lines wait for it (metrics.sink_queue), and it does "
                "not get further ones; they are in metrics.jsonl"
            )

    def _lost(self) -> None:
        with self._lock:
            self.num_lost += 1

    # --- in the sink's thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            sink = self._made()
            while (call := self._calls.get()) is not None:
                if sink is None:
                    self._lost()
                    continue
                try:
                    call(sink)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code
                    self._lost()
                    self._tell("failed", error)
            if sink is not None:
                try:
                    sink.close()
                except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                    self._tell("could not be closed", error)
        finally:
            self._ended.set()
            self._over()

    def _made(self) -> Sink | None:
        try:
            sink = self._make(self._run)
            _check(sink)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            self._tell("could not be opened, and gets nothing", error)
            return None
        return sink

    def _tell(self, what: str, error: BaseException) -> None:
        if self._failed:
            return
        self._failed = True
        with contextlib.suppress(OSError):
            self._run.logs.mkdir(exist_ok=True)
            with os.fdopen(open_log(self._run.logs / LOG), "a", encoding="utf-8") as log:
                log.write(f"the sink {self.name} {what}:\n{''.join(traceback.format_exception(error))}\n")
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        self._warn(
            f"the sink `{self.name}` {what}: {reason}; the run goes on, and metrics.jsonl has everything "
            f"(logs/{LOG} says more)"
        )


def _check(sink: Any) -> None:
    if missing := [name for name in _METHODS if not callable(getattr(sink, name, None))]:
        raise TypeError(f"it has no {', '.join(missing)}: let it inherit from darts_async.sinks.Sink")
