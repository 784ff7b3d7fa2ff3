"""What is known about each prompt's response lengths: running moments, censored lengths included.

Per prompt: exponential moving averages of the mean and second moment of its groups' lengths and of their logarithms
(`censored.group_moments`). The first group enters as it is, later ones with weight `ema`. A prompt that was never seen
gets the average of its stratum, which is drawn to the average of all prompts while few of the stratum are known.

Invariants: `observe` changes no answer, `commit` does, in order of prompt id and then of group; so the statistics do
not depend on the order in which the groups of a step ended. `from_state(to_state())` answers the same to the last bit.

Differs from the paper's code, which keeps the standard deviation of the n responses that were trained on: after the
selection that is too low for exactly the prompts that were shaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from darts_async.algorithms.censored import LogMoments, group_moments
from darts_async.algorithms.normal import quantile
from darts_async.messages import ObservedLength

__all__ = ["LengthProfile", "LengthStatistics", "Signal"]

Signal: TypeAlias = Literal["std", "mean", "max", "mean_2std"]

STRATUM_WEIGHT: Final = 4.0
"""Known prompts at which a stratum's own average counts as much as the population's."""


@dataclass(frozen=True, slots=True)
class LengthProfile:
    """Response lengths of one prompt (or the average over prompts), in tokens; `log_*` of ln(length)."""

    mean: float
    std: float
    log_mean: float
    log_sigma: float

    def signal(self, signal: Signal, num_draws: int, cap: int) -> float:
        """How much a prompt is worth watching, in tokens.

        `max` is the expected longest of `num_draws` responses under the prompt's log-normal (Blom's score for the
        largest order statistic), at most the cap. It does not depend on how many were sampled or cancelled before.
        """
        match signal:
            case "std":
                return self.std
            case "mean":
                return self.mean
            case "mean_2std":
                return self.mean + 2.0 * self.std
            case "max":
                score = quantile((num_draws - 0.375) / (num_draws + 0.25))
                return min(math.exp(min(self.log_mean + self.log_sigma * score, 50.0)), float(cap))


@dataclass(frozen=True, slots=True)
class _Moments:
    """A prompt's running moments."""

    mean: float
    second: float
    log: LogMoments

    def profile(self) -> LengthProfile:
        std = math.sqrt(max(self.second - self.mean * self.mean, 0.0))
        return LengthProfile(self.mean, std, self.log.mean, self.log.sigma)


class _Average:
    """Mean profile of the known prompts of a stratum."""

    def __init__(self, num: int = 0, sums: Iterable[float] = (0.0, 0.0, 0.0, 0.0)) -> None:
        self.num = num
        self.sums = list(sums)

    def add(self, profile: LengthProfile, sign: int) -> None:
        self.num += sign
        values = (profile.mean, profile.std, profile.log_mean, profile.log_sigma)
        self.sums = [total + sign * value for total, value in zip(self.sums, values, strict=True)]


class LengthStatistics:
    """Running length statistics of all prompts that were ever sampled."""

    def __init__(self, ema: float, cap: int) -> None:
        """`ema`: weight of a new group, in (0, 1]. `cap`: max_response_tokens."""
        if not 0 < ema <= 1:
            raise ValueError(f"a weight of {ema} is not in (0, 1]")
        self._ema = ema
        self._cap = cap
        self._prompts: dict[str, _Moments] = {}
        self._strata: dict[str, _Average] = {}
        self._all = _Average()
        self._pending: list[tuple[str, int, str, tuple[ObservedLength, ...]]] = []

    @property
    def num_known(self) -> int:
        """Prompts with statistics of their own."""
        return len(self._prompts)

    def observe(self, prompt_id: str, stratum: str, group_id: int, lengths: Sequence[ObservedLength]) -> None:
        """A group of a prompt ended with these lengths; they enter at the next `commit`."""
        if lengths:
            self._pending.append((prompt_id, group_id, stratum, tuple(lengths)))

    def commit(self) -> int:
        """A step is over: enter what was observed. Return the number of groups entered."""
        pending, self._pending = sorted(self._pending, key=lambda entry: entry[:2]), []
        for prompt_id, _, stratum, lengths in pending:
            self._enter(prompt_id, stratum, lengths)
        return len(pending)

    def profile(self, prompt_id: str, stratum: str) -> LengthProfile | None:
        """What to expect of a prompt; None while nothing at all is known."""
        own = self._prompts.get(prompt_id)
        return self._expected(stratum) if own is None else own.profile()

    def profiles(self, limit: int) -> list[LengthProfile]:
        """At most `limit` known prompts' profiles, spread evenly over all of them (in order of first sight)."""
        known = list(self._prompts.values())
        num = min(limit, len(known))
        return [known[i * len(known) // num].profile() for i in range(num)]

    def to_state(self) -> dict[str, Any]:
        """Return everything that was committed, as plain maps, lists and numbers."""
        return {
            "ema": self._ema,
            "cap": self._cap,
            "prompts": {key: [m.mean, m.second, m.log.mean, m.log.second] for key, m in self._prompts.items()},
            "strata": {key: [average.num, *average.sums] for key, average in self._strata.items()},
            "all": [self._all.num, *self._all.sums],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LengthStatistics:
        """Return statistics that answer as those that made the state. Raises `ValueError` for another shape."""
        try:
            statistics = cls(float(state["ema"]), int(state["cap"]))
            for key, (mean, second, log_mean, log_second) in state["prompts"].items():
                statistics._prompts[key] = _Moments(mean, second, LogMoments(log_mean, log_second))
            statistics._strata = {key: _Average(num, sums) for key, (num, *sums) in state["strata"].items()}
            num, *sums = state["all"]
            statistics._all = _Average(num, sums)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a state of length statistics: {error!r}") from error
        return statistics

    def _enter(self, prompt_id: str, stratum: str, lengths: tuple[ObservedLength, ...]) -> None:
        old = self._prompts.get(prompt_id)
        expected = None if old is not None else self._expected(stratum)
        prior = None
        if expected is not None:
            prior = LogMoments(expected.log_mean, expected.log_mean**2 + expected.log_sigma**2)
        group = group_moments(
            [length.tokens for length in lengths if not length.censored],
            [length.tokens for length in lengths if length.censored],
            cap=self._cap,
            past=None if old is None else old.log,
            weight=1.0 if old is None else self._ema,
            expected=prior,
        )
        average = self._strata.setdefault(stratum, _Average())
        if old is None:
            new = _Moments(group.mean, group.second, group.log)
        else:
            keep = 1.0 - self._ema
            new = _Moments(
                keep * old.mean + self._ema * group.mean,
                keep * old.second + self._ema * group.second,
                LogMoments(
                    keep * old.log.mean + self._ema * group.log.mean,
                    keep * old.log.second + self._ema * group.log.second,
                ),
            )
            for total in (average, self._all):
                total.add(old.profile(), -1)
        self._prompts[prompt_id] = new
        for total in (average, self._all):
            total.add(new.profile(), +1)

    def _expected(self, stratum: str) -> LengthProfile | None:
        if not self._all.num:
            return None
        population = [total / self._all.num for total in self._all.sums]
        own = self._strata.get(stratum, _Average())
        weight = own.num + STRATUM_WEIGHT
        blended = [(total + STRATUM_WEIGHT * mean) / weight for total, mean in zip(own.sums, population, strict=True)]
        return LengthProfile(*blended)
