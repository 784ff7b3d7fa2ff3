"""All sinks of a run: opened together, fed together, and closed within one deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from darts_async.config import Config
from darts_async.messages import EvalResult
from darts_async.sinks.base import SinkRun
from darts_async.sinks.feed import SinkFeed
from darts_async.sinks.registry import sink_makers
from darts_async.sinks.weights_and_biases import kill_services, services

__all__ = ["SinkHub"]


class SinkHub:
    """Belongs to the event loop in which it is made."""

    def __init__(self, config: Config, run: SinkRun, warn: Callable[[str], None]) -> None:
        """`warn` tells a person; it is called in the loop."""
        self._settings = config.metrics
        self._run = run
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._left = asyncio.Event()
        self._feeds: list[SinkFeed] = []
        self._others: frozenset[int] = frozenset()
        """W&B's processes that were there before the run's."""

    def open(self) -> None:
        """Begin to open them. Raises `ConfigError` for a sink of the user's own that cannot be imported."""
        self._others = services()
        warn, over = self._soon(self._warn), self._soon(self._left.set)
        for name, make in sink_makers(self._settings.sinks).items():
            feed = SinkFeed(name, make, self._run, bound=self._settings.sink_queue, warn=warn, over=over)
            self._feeds.append(feed)
            feed.start()

    def line(self, values: Mapping[str, float]) -> None:
        """A line of `metrics.jsonl`, its `step` included."""
        step = int(values["step"])
        rest = {name: value for name, value in values.items() if name != "step"}
        for feed in self._feeds:
            feed.line(step, rest)

    def evaluated(self, result: EvalResult) -> None:
        """The held-out set was scored."""
        for feed in self._feeds:
            feed.evaluated(result)

    def gauges(self) -> dict[str, float]:
        """How they keep up."""
        values: dict[str, float] = {}
        for feed in self._feeds:
            values[f"sink/{feed.name}/waiting_lines"] = float(feed.num_waiting)
            values[f"sink/{feed.name}/lost_lines"] = float(feed.num_lost)
        return values

    async def close(self, summary: Mapping[str, Any] | None, hurry: asyncio.Event) -> None:
        """Give them the summary, if there is one, and the time they are due, less when there is a `hurry`; what hangs
        then is left behind, and said."""
        limit_s = self._settings.sink_timeout_s
        started = [feed for feed in self._feeds if feed.is_working]
        for feed in started:
            feed.finish(summary)
        deadline = self._loop.time() + limit_s
        hurried = asyncio.create_task(hurry.wait())
        while any(feed.is_working for feed in started) and not hurry.is_set() and self._loop.time() < deadline:
            left = asyncio.create_task(self._left.wait())
            timeout_s = deadline - self._loop.time()
            await asyncio.wait({left, hurried}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            left.cancel()
            self._left.clear()
        hurried.cancel()
        hanging = [feed.name for feed in started if feed.is_working]
        if hanging:
            names = ", ".join(f"`{name}`" for name in hanging)
            limit = "at once" if hurry.is_set() else f"within metrics.sink_timeout_s = {limit_s:g} s"
            self._warn(f"sinks that did not end {limit} and are left behind: {names}")
        if "wandb" in hanging:
            await asyncio.to_thread(kill_services, self._others)

    def _soon(self, call: Callable[..., None]) -> Callable[..., None]:
        """The same, from another thread; nothing once the loop is closed."""

        def later(*arguments: Any) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call, *arguments)

        return later
