"""What a run tells the world of its metrics beside `metrics.jsonl`: its sinks, and the page that Prometheus reads.

The supervisor hands on what it hears. Whatever goes wrong here once the run has begun is said and never ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from darts_async import __version__
from darts_async.config import Config
from darts_async.config.metrics_rules import parse_prometheus
from darts_async.launcher.accounts import queue_bounds
from darts_async.launcher.preflight import Plan
from darts_async.launcher.roles import RoleProcess
from darts_async.messages import EvalResult, StepMetrics
from darts_async.sinks.base import SinkRun
from darts_async.sinks.hub import SinkHub
from darts_async.sinks.prometheus import RoleSight, RunExporter
from darts_async.sinks.prometheus_server import ScrapeServer

__all__ = ["MetricsOut"]


class MetricsOut:
    """Of one start of a run. Belongs to the event loop in which it is made."""

    def __init__(
        self,
        plan: Plan,
        *,
        roles: Callable[[], Mapping[str, RoleProcess]],
        live: Callable[[], Config],
        warn: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        """`live`: the config with what was set while the run goes on."""
        config = plan.config
        self._config = config
        self._roles = roles
        self._note = note
        self._server: ScrapeServer | None = None
        first_step = 0 if plan.history is None else plan.history.version
        run = SinkRun(config.run.name, plan.paths.root, config.model_dump(mode="json"), first_step)
        self._sinks = SinkHub(config, run, warn)
        self._exporter = RunExporter(
            run=config.run.name,
            steps=config.run.steps,
            info={"version": __version__, "engine": config.generator.engine, "mode": config.pipeline.mode},
            bounds=lambda: queue_bounds(live()),
            roles=self._sights,
            own=self._sinks.gauges,
        )

    def open(self) -> None:
        """Begin. Raises `ConfigError` when the address for Prometheus is taken, or a sink of the user's own cannot be
        imported."""
        self._sinks.open()
        address = parse_prometheus(self._config.metrics.prometheus)
        if address is not None:
            self._server = ScrapeServer(address, self._exporter)
            self._note(f"metrics for Prometheus: {self._server.url}")

    def line(self, values: Mapping[str, float]) -> None:
        """A line of `metrics.jsonl` was written."""
        self._exporter.line(values)
        self._sinks.line(values)

    def reported(self, report: StepMetrics) -> None:
        """A role has reported a step."""
        self._exporter.reported(report)

    def evaluated(self, result: EvalResult) -> None:
        """The held-out set was scored."""
        self._exporter.evaluated(result)
        self._sinks.evaluated(result)

    def heard(self, role: RoleProcess) -> None:
        """A role has given a sign of life."""
        self._exporter.heard(role.role, role.rank)

    def gauges(self) -> dict[str, float]:
        """How the sinks keep up."""
        return self._sinks.gauges()

    async def close(self, summary: Mapping[str, Any] | None, hurry: asyncio.Event) -> None:
        """The run is over; `hurry`: nobody waits any more."""
        server, self._server = self._server, None
        closing = None if server is None else asyncio.create_task(asyncio.to_thread(server.close))
        await self._sinks.close(summary, hurry)
        if closing is not None:
            await closing

    def _sights(self) -> list[RoleSight]:
        """Called in threads of the server's: the roles and their gauges are replaced as a whole, never changed."""
        return [
            RoleSight(role.role, role.rank, role.ready and not role.gone, role.incarnation, role.gauges)
            for role in list(self._roles().values())
        ]
