"""Adaptive redundancy: prompts are drawn in batches, and a batch's candidates are shared out by what is known of them.

For each batch: the budget (fixed, or where `U(M)` is largest), the total it makes, each prompt's share of the total,
and which of the saturated prompts are pruned. What rounding leaves over is carried to the next batch, so the mean is
the budget exactly in the long run. While nothing is known all prompts get the same.

Invariants: what has been observed counts from the next version on (`published`), so the allotments are a function of
the versions and the groups trained for them, not of arrival; totals are within the bounds, a clamp is counted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from darts_async.algorithms.allocation import Allotment, allocate
from darts_async.algorithms.budget import Workload, best_budget, terms
from darts_async.algorithms.latency import LatencyCurve
from darts_async.algorithms.length_statistics import LengthStatistics, Signal
from darts_async.algorithms.pruning import PruningAllowance
from darts_async.algorithms.staleness import eta_of

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.messages import ObservedLength

__all__ = ["AllocationRules", "BatchAllocation", "PromptKey", "is_adaptive"]

MIN_LATENCY_SAMPLES: Final = 32
"""Latency samples (medians over many tokens each) before `auto` leaves its first guess."""
MIN_KNOWN_PROMPTS: Final = 4
_MAX_PROFILES: Final = 64
"""Prompts that stand for all of them in the budget: 5 ms of work."""


@dataclass(frozen=True, slots=True)
class PromptKey:
    """Which prompt: its stable id, and the stratum it shrinks to."""

    prompt_id: str
    stratum: str


@dataclass(frozen=True, slots=True)
class AllocationRules:
    """The settings that allotments follow."""

    low: int
    high: int
    budget: float | Literal["auto"]
    signal: Signal | Literal["uniform"]
    ema: float
    cost_weight: float
    prune_fraction: float
    batch_size: int
    waits: bool
    """Draw only when everything trained for the latest version is known (on-policy modes: same groups every time)."""
    workload: Workload

    @classmethod
    def of(cls, config: Config) -> AllocationRules:
        """Read a resolved config."""
        given, per_step = config.allocation, config.group.groups_per_step
        assert given.min is not None and given.max is not None and given.budget is not None
        ahead = per_step * (eta_of(config) + 1) + config.queues.oversample_groups
        return cls(
            low=given.min,
            high=given.max,
            budget=given.budget,
            signal=given.signal,
            ema=given.ema,
            cost_weight=given.cost_weight,
            prune_fraction=given.prune_fraction,
            batch_size=per_step,
            waits=eta_of(config) == 0,
            workload=Workload(
                rule=config.selection.rule,
                group_size=config.group.size,
                keep_longest=config.group.keep_longest,
                groups=max(min(ahead, config.queues.in_flight_groups) / config.generator.replicas, 1.0),
                slots=config.generator.max_num_seqs,
                overlapped=config.pipeline.mode in {"one_step_off", "async"},
                cap=config.model.max_response_tokens,
            ),
        )


def is_adaptive(config: Config) -> bool:
    """Whether a config asks for anything that a fixed mean does not do."""
    given = config.allocation
    return given.signal != "uniform" or given.budget == "auto" or given.prune_fraction > 0


class BatchAllocation:
    """Allots candidates batch by batch. Implements `Allotter`."""

    def __init__(self, rules: AllocationRules, prompts: Sequence[PromptKey], prompt_of: Callable[[int], int]) -> None:
        """`prompt_of`: index of the prompt that a draw visits."""
        self._rules = rules
        self._prompts = prompts
        self._prompt_of = prompt_of
        self._statistics = LengthStatistics(rules.ema, rules.workload.cap)
        self._allowance = PruningAllowance(rules.prune_fraction)
        self._latency = LatencyCurve()
        self._lanes: dict[bool, deque[Allotment]] = {False: deque(), True: deque()}
        self._carried = 0.0
        self._version = 0
        self.budget = self._first_budget()
        """Mean number of candidates that the latest batch was to get."""
        self.candidates_mean = float("nan")
        """Mean number that it got."""
        self.clamped = 0
        """Candidates that the bounds added or took away, in all."""

    @property
    def waits(self) -> bool:
        """See `Allotter`."""
        return self._rules.waits

    def observe(self, prompt_index: int, group_id: int, lengths: Sequence[ObservedLength]) -> None:
        """A training group of a prompt came to its end; counts from the next version on."""
        prompt = self._prompts[prompt_index]
        self._statistics.observe(prompt.prompt_id, prompt.stratum, group_id, lengths)

    def follow(self, rules: AllocationRules) -> None:
        """Go on under other rules, with all that is known, from the next batch on."""
        self._rules = rules

    def measured(self, concurrency: Sequence[int], per_token_s: Sequence[float]) -> None:
        """A replica measured latencies."""
        self._latency.add(concurrency, per_token_s)

    def adopt_latencies(self, other: BatchAllocation) -> None:
        """Know what another one has measured."""
        self._latency = other._latency

    def published(self, version: int) -> None:
        """See `Allotter`."""
        if version > self._version:
            self._version = version
            self._statistics.commit()

    def is_behind(self, version: int) -> bool:
        """See `Allotter`."""
        return self._rules.waits and self._version < version

    def draw(self, fresh: Callable[[], int], *, lane: bool = False) -> Allotment:
        """See `Allotter`. Draws `batch_size` prompts whenever a lane is empty."""
        if not self._lanes[lane]:
            self._lanes[lane].extend(self._allot([fresh() for _ in range(self._rules.batch_size)]))
        return self._lanes[lane].popleft()

    def to_state(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on, as plain maps, lists and numbers. Latencies are measured anew."""
        return {
            "version": self._version,
            "carried": self._carried,
            "allowance": self._allowance.carried,
            "statistics": self._statistics.to_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises `ValueError` for another shape."""
        try:
            self._version = int(state["version"])
            self._carried = float(state["carried"])
            self._allowance = PruningAllowance(self._rules.prune_fraction, float(state["allowance"]))
            self._statistics = LengthStatistics.from_state(state["statistics"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a state of an allocation: {error!r}") from error

    def _allot(self, draws: list[int]) -> list[Allotment]:
        rules = self._rules
        self.budget = self._best_budget()
        exact = self.budget * len(draws) + self._carried
        total = math.floor(exact + 1e-9)
        self._carried = exact - total
        known = self._statistics.num_known > 0
        signals = [self._signal(self._prompt_of(draw)) for draw in draws]
        weighing = signals if known and rules.signal != "uniform" else [1.0] * len(draws)
        result = allocate(weighing, total, rules.low, rules.high)
        self.clamped += abs(result.clamped)
        self.candidates_mean = float(result.counts.mean())
        saturated = (result.counts == rules.high) & known
        pruned = self._allowance.choose(signals, saturated).tolist()
        return [
            Allotment(draw, num, "shortest" if prune else "")
            for draw, num, prune in zip(draws, result.counts.tolist(), pruned, strict=True)
        ]

    def _signal(self, index: int) -> float:
        """A prompt's signal. `uniform` still ranks what to prune: by `mean_2std`, which finds most of the tail."""
        prompt, rules = self._prompts[index], self._rules
        profile = self._statistics.profile(prompt.prompt_id, prompt.stratum)
        if profile is None:
            return 1.0
        signal: Signal = "mean_2std" if rules.signal == "uniform" else rules.signal
        return profile.signal(signal, rules.high, rules.workload.cap)

    def _first_budget(self) -> float:
        rules = self._rules
        if rules.budget == "auto":
            return min(max(1.5 * rules.workload.group_size, rules.low), rules.high)
        return rules.budget

    def _best_budget(self) -> float:
        rules = self._rules
        if rules.budget != "auto":
            return rules.budget
        curve = self._latency.fit()
        if (
            curve is None
            or self._latency.num_samples < MIN_LATENCY_SAMPLES
            or self._statistics.num_known < min(MIN_KNOWN_PROMPTS, len(self._prompts))
        ):
            return self.budget
        profiles = self._statistics.profiles(_MAX_PROFILES)
        return float(best_budget(terms(profiles, rules.workload, curve, rules.low, rules.high), rules.cost_weight))
