"""A run for Prometheus: what every role last said, and who is there, in its text format, when it asks.

Every sample has the labels `run`, `role` and `rank`. The run's own thread writes, the server's threads read; what is
shared is replaced as a whole and never changed, so that there is no lock to wait for. Invariant: a counter never falls
while the run lasts: of what a step and a heartbeat say of one, the larger counts, and a start of a role that counts
from 0 again is, to Prometheus, the reset that it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from darts_async.messages import EvalResult, StepMetrics
from darts_async.sinks.prometheus_names import PREFIX, Family, family_of

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["RoleSight", "RunExporter"]

_LABELS: Final = ("run", "role", "rank")
_OWN: Final = ("launcher", "0")
_SELECTOR: Final = ("selector", "0")


@dataclass(frozen=True, slots=True)
class RoleSight:
    """A role, as the launcher sees it now."""

    role: str
    rank: int
    is_up: bool
    """It is ready to work, and its process is there."""
    restarts: int
    gauges: Mapping[str, float]


@dataclass(eq=False)
class RunExporter:
    """Of one run: a collector of prometheus-client's."""

    run: str
    steps: int
    """To be made."""
    info: Mapping[str, str]
    bounds: Callable[[], Mapping[str, int]]
    """By name of the queue."""
    roles: Callable[[], Iterable[RoleSight]]
    own: Callable[[], Mapping[str, float]]
    """The launcher's own gauges."""
    _steps: dict[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    """By role and rank: its values of the last step."""
    _heard: dict[tuple[str, str], float] = field(default_factory=dict)
    _line: Mapping[str, float] = field(default_factory=dict)
    _began_s: float = field(default_factory=time.time)

    def line(self, values: Mapping[str, float]) -> None:
        """A line of `metrics.jsonl`."""
        self._line = values

    def reported(self, report: StepMetrics) -> None:
        """What a role says of a step. The learner's names the policy version."""
        role = "learner" if "policy_version" in report.values else "selector"
        self._steps[role, "0"] = dict(report.values)

    def evaluated(self, result: EvalResult) -> None:
        """The held-out set was scored."""
        self._steps["allocator", "0"] = {
            "eval/version": float(result.policy_version),
            "eval/reward": result.reward,
            "eval/response_length": result.response_length,
            "eval/rollouts": float(result.num_rollouts),
        }

    def heard(self, role: str, rank: int) -> None:
        """A role has given a sign of life."""
        self._heard[role, str(rank)] = time.monotonic()

    # --- in a thread of the server's --------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Everything, as of now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - where it is used

        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        known: set[tuple[str, ...]] = set()
        for family, (role, rank), value in self._samples():
            names = [*_LABELS, *(label for label, _ in family.labels)]
            words = [self.run, role, rank, *(word for _, word in family.labels)]
            if (sample := (family.name, *words)) in known:
                continue  # two names that differ in what Prometheus does not know: it would refuse the page
            known.add(sample)
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = families.setdefault(family.name, make(family.name, family.help, labels=names))
            metric.add_metric(words, value)
        yield from families.values()

    def _samples(self) -> Iterator[tuple[Family, tuple[str, str], float]]:
        sights = list(self.roles())
        said: dict[tuple[str, str], dict[str, float]] = {_OWN: dict(self.own())}
        for sight in sights:
            said[sight.role, str(sight.rank)] = dict(sight.gauges)
        selectors = self._steps.get(_SELECTOR, {})
        for place, values in list(self._steps.items()):
            # Both report what was kept of a step; one of them is enough.
            known = () if place == _SELECTOR else selectors
            _merge(said.setdefault(place, {}), {name: value for name, value in values.items() if name not in known})
        for place, values in said.items():
            for name, value in values.items():
                if math.isfinite(value):
                    family = family_of(name)
                    yield family, place, value * family.factor
        yield from self._launchers(sights)

    def _launchers(self, sights: list[RoleSight]) -> Iterator[tuple[Family, tuple[str, str], float]]:
        """What the launcher alone knows."""
        yield _own("run_info", "What is run; always 1.", labels=tuple(self.info.items())), _OWN, 1.0
        yield _own("run_start_timestamp_seconds", "When this start of the run began."), _OWN, self._began_s
        yield _own("run_steps", "Learner steps that the run is to make."), _OWN, float(self.steps)
        if self._line:
            yield _own("run_steps_done", "Learner steps made."), _OWN, self._line["step"] + 1.0
            yield _own("run_wall_seconds", "Time since the run began, at its last step."), _OWN, self._line["wall_s"]
        for queue, bound in self.bounds().items():
            labels = (("queue", queue),)
            yield _own("queue_bound", "What the queue takes at most.", labels=labels), _OWN, float(bound)
        now = time.monotonic()
        for sight in sights:
            place = (sight.role, str(sight.rank))
            yield _own("role_up", "Whether the role is ready and its process there."), place, float(sight.is_up)
            restarts = _own("role_restarts_total", "How often the role was started anew.", "counter")
            yield restarts, place, float(sight.restarts)
            if place in self._heard:
                age = _own("role_heartbeat_age_seconds", "Time since the role's last sign of life.")
                yield age, place, now - self._heard[place]


def _merge(into: dict[str, float], values: Mapping[str, float]) -> None:
    """A step's gauge stands for the role's own of that name; of a counter the larger counts."""
    for name, value in values.items():
        counts = name in into and family_of(name).kind == "counter"
        into[name] = max(into[name], value) if counts else value


def _own(name: str, text: str, kind: str = "gauge", labels: tuple[tuple[str, str], ...] = ()) -> Family:
    return Family(PREFIX + name, "counter" if kind == "counter" else "gauge", text, labels, 1.0)
