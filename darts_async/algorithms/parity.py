"""Whether engine and learner say the same of the same tokens and, where they do not, what the likely cause is.

The ratios that the losses use compare the learner's log-prob of a token with the engine's. At equal weights they must
agree but for rounding; whatever else lies between them trains the policy on a wrong number, silently. Everything here
is judgement on numbers that others have measured: no model, no engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = [
    "GROSS_LIMITS",
    "MEAN_LIMITS",
    "FirstStep",
    "Parity",
    "ScoredResponse",
    "TemperatureFit",
    "compare",
    "fit_temperature",
    "likely_cause",
    "precision_of",
]

Values = npt.NDArray[np.floating]

MEAN_LIMITS: Final = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest mean |difference| of log-probs that rounding explains, by `model.dtype`. float32: the quickstart policy
measures 3e-7. bfloat16 has 8 bits of mantissa, and engine and learner round in different places."""

GROSS_LIMITS: Final = {"float32": 0.005, "bfloat16": 0.1}
"""What stops a run. A peaked policy hides much: with the quickstart's, in float32, a temperature of 0.7 in the engine
where the learner has 1 makes a mean of 0.017 (largest 1.9), and weights that are each off by a tenth 0.023."""

_NUM_QUARTERS: Final = 4
_FIT_FACTOR: Final = 4.0
"""Temperatures are tried from a quarter to four times the configured one."""
_FIT_GRID: Final = 9
_FIT_STEPS: Final = 14
"""Golden-section steps after the grid: each shrinks the bracket to 0.618 of it, in all to a thousandth."""
_VANISHED: Final = 0.1
"""What a difference has to fall to, as a share of itself, to count as explained."""
_SAME_TEMPERATURE: Final = 0.01
"""Temperatures whose logarithms differ by less are the same one."""
_ROUNDING_LIMITS: Final = 100.0
_ROUNDING: Final = 0.05
"""A mean difference up to so many limits, and up to here in nats, is more like another precision than like other
weights. (The quickstart in float32: 3e-7 as it is, 2e-2 where each weight is off by a tenth of itself.)"""


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """The log-probs of one response under both, in nats, at the same temperature."""

    engine: Values
    """[length]: as the engine reported them while it sampled."""
    learner: Values
    """[length]."""
    stopped: bool
    """It ended by itself: the last token is an EOS."""


@dataclass(frozen=True, slots=True)
class Parity:
    """|log-prob of the learner - log-prob of the engine|, in nats: means over tokens unless the name says otherwise.

    A figure over no tokens at all is NaN.
    """

    tokens: int
    responses: int
    mean: float
    max: float
    k3: float
    """Estimate of KL(engine || learner) a token: mean of (r - 1) - log r, r = p_learner / p_engine (Schulman 2020)."""
    quarters: tuple[float, ...]
    """By position within the response: first to last quarter of its tokens."""
    first: float
    """Of the first tokens alone."""
    last: float
    """Of the EOS of responses that stopped by themselves."""
    without_first: float
    without_last: float

    def within(self, limit: float) -> bool:
        """Whether the mean is at most `limit`; never for numbers that are not finite or for no tokens."""
        return self.mean <= limit

    def by_position(self) -> str:
        """The profile over the response in words, for people."""
        quarters = " ".join(f"{value:.1e}" for value in self.quarters)
        return f"quarters {quarters}, first {self.first:.1e}, EOS {self.last:.1e}"


@dataclass(frozen=True, slots=True)
class TemperatureFit:
    """The temperature at which the learner's log-probs come closest to the engine's."""

    temperature: float
    mean: float
    """Mean |difference| there."""


def compare(responses: Sequence[ScoredResponse]) -> Parity:
    """Measure. Responses of length 0 are not allowed; no responses give NaN throughout."""
    gaps, k3, positions, first, last = [], [], [], [], []
    for response in responses:
        size = response.engine.size
        if size == 0 or response.learner.size != size:
            raise ValueError(f"{size} log-probs of the engine beside {response.learner.size} of the learner")
        difference = response.learner.astype(np.float64) - response.engine.astype(np.float64)
        index = np.arange(size)
        gaps.append(np.abs(difference))
        with np.errstate(over="ignore", invalid="ignore"):
            k3.append(np.expm1(difference) - difference)
        positions.append(index * _NUM_QUARTERS // size)
        first.append(index == 0)
        last.append((index == size - 1) & response.stopped)
    gap = np.concatenate(gaps) if gaps else np.empty(0)
    quarter = np.concatenate(positions) if gaps else np.empty(0, np.int64)
    is_first = np.concatenate(first) if gaps else np.empty(0, np.bool_)
    is_last = np.concatenate(last) if gaps else np.empty(0, np.bool_)
    return Parity(
        tokens=gap.size,
        responses=len(responses),
        mean=_mean(gap),
        max=float(gap.max()) if gap.size else math.nan,
        k3=_mean(np.concatenate(k3)) if k3 else math.nan,
        quarters=tuple(_mean(gap[quarter == number]) for number in range(_NUM_QUARTERS)),
        first=_mean(gap[is_first]),
        last=_mean(gap[is_last]),
        without_first=_mean(gap[~is_first]),
        without_last=_mean(gap[~is_last]),
    )


def fit_temperature(engine: Values, score_at: Callable[[float], Values], configured: float) -> TemperatureFit:
    """Find the temperature that brings the learner's log-probs of the same tokens closest to the engine's.

    engine: [tokens]. score_at: the learner's log-probs [tokens] at a temperature; called 9 + 16 times. A grid over
    `configured` / 4 to x 4, geometric, then golden-section search between the neighbours of its best point.
    """

    def miss(log_temperature: float) -> float:
        value = float(np.abs(score_at(math.exp(log_temperature)).astype(np.float64) - engine).mean())
        return value if math.isfinite(value) else math.inf

    centre, reach = math.log(configured), math.log(_FIT_FACTOR)
    grid = np.linspace(centre - reach, centre + reach, _FIT_GRID).tolist()
    misses = [miss(point) for point in grid]
    best = int(np.argmin(misses))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _FIT_GRID - 1)]
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = miss(left), miss(right)
    for _ in range(_FIT_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = miss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = miss(right)
    found = [(misses[best], grid[best]), (at_left, left), (at_right, right)]
    least, where = min(found)
    return TemperatureFit(math.exp(where), least)


def likely_cause(parity: Parity, limit: float, temperature: float, fit: TemperatureFit | None) -> str:
    """Say in words what most likely lies behind a mismatch, and what to do. `parity` is above `limit`.

    temperature: `sampling.temperature`. fit: None where nobody looked for another one.
    """
    if parity.tokens == 0:
        return "no token was compared: every sample failed; the log says why"
    if not math.isfinite(parity.mean):
        return "a log-prob is not a finite number: look for overflow (model.dtype) or damaged weights"
    explained = max(limit, _VANISHED * parity.mean)
    if fit is not None and fit.mean <= explained and abs(math.log(fit.temperature / temperature)) > _SAME_TEMPERATURE:
        return _temperature_text(fit.temperature, temperature)
    if parity.without_last <= limit:
        return (
            "only the last token (EOS) differs: the engine treats the end of a response in its own way (min_tokens, "
            "ignore_eos, a forced or suppressed EOS in generator.engine_args or generation_config.json)"
        )
    if parity.without_first <= limit:
        return (
            "only the first token differs: engine and learner do not agree on where the prompt ends (BOS, chat "
            "template, a prompt cut or padded by one of them)"
        )
    start, end = parity.quarters[0], parity.quarters[-1]
    if math.isfinite(start) and start <= _VANISHED * end:
        return (
            "the difference grows along the response: positions, RoPE scaling, a sliding window, or a KV cache of "
            "lower precision (generator.engine_args.kv_cache_dtype)"
        )
    if parity.mean <= min(_ROUNDING, _ROUNDING_LIMITS * limit):
        return (
            "small, and everywhere: another precision or kernel in one of the two (model.dtype, generator.engine_args: "
            "dtype, quantization, kv_cache_dtype; learner.mixed_precision)"
        )
    return (
        "far beyond rounding, everywhere, at any temperature: the engine serves other weights than the learner trains "
        "(model.path changed on disk, an adapter, an update that was lost), or reads another prompt"
    )


def _temperature_text(found: float, configured: float) -> str:
    text = (
        f"temperature: the differences vanish when the learner uses {found:.3g} in the place of sampling.temperature = "
        f"{configured:g}"
    )
    if abs(math.log(found)) <= _SAME_TEMPERATURE:
        return (
            f"{text}: the engine reports log-probs from before the temperature; generator.engine_args.logprobs_mode "
            "must be 'processed_logprobs'"
        )
    return f"{text}: engine and learner must be given the same one"


def precision_of(config: Config) -> str:
    """The coarser of what engine and learner compute in: `float32` or `bfloat16`."""
    half = (config.model.dtype, config.generator.engine_args.get("dtype"), config.learner.mixed_precision)
    return "bfloat16" if {"bfloat16", "float16", "half", "bf16"} & {str(name) for name in half} else "float32"


class FirstStep:
    """The tokens of a run's first step (or of the first one after a resume), judged once, before its update."""

    def __init__(self, limit: float | None) -> None:
        """limit: `learner.max_parity_diff`, or that of `GROSS_LIMITS`.

        None where the engine's log-probs are no model's, to judge nothing.
        """
        self._limit = limit
        self._tokens = 0
        self._sum = 0.0
        self._max = 0.0

    def add(self, *, tokens: int, diff_sum: float, diff_max: float) -> None:
        """Take tokens that were sampled by the very weights that scored them: sum and largest of their |difference|."""
        self._tokens += tokens
        self._sum += diff_sum
        self._max = max(self._max, diff_max)

    def mismatch(self) -> str | None:
        """Return None, or why the run must not go on; from then on nothing is judged any more.

        NaN passes: it is what the guard against bad steps is for.
        """
        limit, self._limit = self._limit, None
        if limit is None or self._tokens == 0 or not self._sum / self._tokens > limit:
            return None
        return (
            "engine and learner do not agree: their log-probs of the same "
            f"{self._tokens} tokens under the same weights differ by {self._sum / self._tokens:.3g} in the mean "
            f"(largest {self._max:.3g}), more than learner.max_parity_diff = {limit:g}. Nothing was trained. Likely "
            "causes: another sampling temperature or logprobs_mode in the engine, other weights, or other tokens (chat "
            "template, EOS). `darts-async doctor CONFIG` finds out which. Raise the limit only where the difference is "
            "meant (an engine of lower precision, with a correction)"
        )


def _mean(values: Values) -> float:
    return float(values.mean()) if values.size else math.nan
