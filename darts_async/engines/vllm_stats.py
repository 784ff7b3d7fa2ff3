"""Hands vLLM's statistics to `EngineStats`, in the place of vLLM's own Prometheus metrics.

vLLM calls this from the task that reads the engine's outputs, and a failure there is the engine's end. Invariant:
nothing is raised. vLLM does not promise that its records stay as they are: where they differ, the run goes on without.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts_async.engines.engine_stats import EngineStats

__all__ = ["stat_logger"]

_log = logging.getLogger(__name__)


def stat_logger(into: EngineStats) -> type:
    """Return the class that `AsyncLLM` makes its logger of. vLLM must be loaded."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger  # noqa: PLC0415 - loaded by now

    class Passed(PrometheusStatLogger):  # type: ignore[misc] # of vLLM, which has no types here
        """Derived from vLLM's Prometheus logger because that is how vLLM is told to do without its own one, which
        costs some 80 metric objects and an update of each with every step."""

        def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:  # noqa: ARG002
            self._failed = False

        def record(
            self,
            scheduler_stats: Any,
            iteration_stats: Any,
            mm_cache_stats: Any = None,  # noqa: ARG002 - there are no images here
            engine_idx: int = 0,  # noqa: ARG002 - a replica is one engine
        ) -> None:
            if self._failed:
                return
            try:
                if scheduler_stats is not None:
                    into.scheduled(scheduler_stats)
                if iteration_stats is not None:
                    into.iterated(iteration_stats)
            except Exception:  # noqa: BLE001 - whatever it is, the engine would die of it
                self._failed = True
                _log.exception("this vLLM's statistics are not what they were: no engine metrics from here on")

        def log(self) -> None:
            pass

        def log_engine_initialized(self) -> None:
            pass

        def record_sleep_state(self, *_: Any, **__: Any) -> None:
            pass

        def record_admission_rejection(self, reason: str) -> None:
            pass

    return Passed
