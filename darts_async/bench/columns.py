"""The figures of a cell and the tables that are made of them: which columns, under which words. Pure.

A figure that was not measured is None, never zero.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class CellResult:
    """What is known of one cell."""

    preset: str
    seed: int
    summary: Mapping[str, Any] | None
    """Of `summary.json`; None when the cell has not been run."""
    steps: Sequence[Mapping[str, float]] = ()
    """Lines of `metrics.jsonl`."""
    lengths: Sequence[int] = ()
    """Of the training candidates that ended by themselves or at the cap, in tokens."""
    equal_s: float | None = None
    """Training time of the seed's fastest cell: what all of them are compared at."""

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return self.summary is not None and self.summary.get("status") == "done"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a cell."""

    key: str
    """Its name in the CSV, with its unit."""
    title: str
    form: str
    """How a number is shown."""
    figure: Callable[[CellResult], float | None]
    ranged: bool = False
    """Whether the range over the seeds is shown."""


def _summary(*path: str) -> Callable[[CellResult], float | None]:
    def figure(cell: CellResult) -> float | None:
        value: Any = cell.summary
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    return figure


def _share(part: tuple[str, ...], whole: tuple[str, ...]) -> Callable[[CellResult], float | None]:
    def figure(cell: CellResult) -> float | None:
        above, below = _summary(*part)(cell), _summary(*whole)(cell)
        return above / below if above is not None and below else None

    return figure


def _other_tokens(cell: CellResult) -> float | None:
    parts = [_summary("tokens", state)(cell) for state in ("stale", "failed", "cancelled_shutdown")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _of_steps(
    name: str, reduce: Callable[[Sequence[float]], float], skip: int = 0
) -> Callable[[CellResult], float | None]:
    """Reduce a metric over the steps; the first `skip` are left out if there are others."""

    def figure(cell: CellResult) -> float | None:
        values = [step[name] for step in cell.steps if name in step]
        return reduce(values[skip:] or values) if values else None

    return figure


def _last_mean(values: Sequence[float]) -> float:
    return statistics.fmean(values[-5:])


def _training_tokens_per_s(cell: CellResult) -> float | None:
    tokens, seconds = _summary("tokens", "trained")(cell), _summary("bench", "training_s")(cell)
    return tokens / seconds if tokens is not None and seconds else None


def reward_curve(cell: CellResult) -> list[tuple[float, float]]:
    """Return (training time in seconds, held-out reward) of every version that was scored, in order: before the first
    step, in the run or behind it (checkpoints), and after the last."""
    times_s = [step.get("learner/step_s", 0.0) for step in cell.steps]
    # The learner's first step begins before the first dispatch: the evaluation before training is none of its time.
    training_s = _summary("bench", "training_s")(cell)
    before_s = 0.0 if training_s is None else max(0.0, sum(times_s) - training_s)
    made_at_s = [0.0, *(at_s - before_s for at_s in itertools.accumulate(times_s))]
    scores: dict[int, float | None] = {0: _summary("eval", "before", "reward")(cell)}
    for step in cell.steps:
        if "eval/version" in step:
            scores[int(step["eval/version"])] = step["eval/reward"]
    for score in ((cell.summary or {}).get("bench") or {}).get("held_out", ()):
        scores[score["version"]] = score["reward"]
    scores.setdefault(len(cell.steps), _summary("eval", "after", "reward")(cell))
    known = sorted((version, reward) for version, reward in scores.items() if reward is not None)
    return [(made_at_s[version], reward) for version, reward in known if version < len(made_at_s)]


def _seconds_to(target: float) -> Callable[[CellResult], float | None]:
    """Training time at the first version whose held-out reward is at least `target`, of those that were scored."""

    def figure(cell: CellResult) -> float | None:
        return next((at_s for at_s, reward in reward_curve(cell) if reward >= target), None)

    return figure


def _reward_at_equal_time(cell: CellResult) -> float | None:
    """Held-out reward of the last version that was scored and made within the time of the seed's fastest cell."""
    if cell.equal_s is None:
        return None
    return next((reward for at_s, reward in reversed(reward_curve(cell)) if at_s <= cell.equal_s), None)


def _length_p99(cell: CellResult) -> float | None:
    """Nearest rank, over all candidates that ended."""
    ordered = sorted(cell.lengths)
    return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)] if ordered else None


def _length_mean(cell: CellResult) -> float | None:
    return statistics.fmean(cell.lengths) if cell.lengths else None


SPEED: Final = (
    # The first step waits for the first evaluation and the first rollouts of the run.
    Column("step_s", "step s", "{:.2f}", _of_steps("learner/step_s", statistics.median, skip=1), ranged=True),
    Column("training_s", "training s", "{:.1f}", _summary("bench", "training_s"), ranged=True),
    Column("generator_idle", "generator idle", "{:.0%}", _summary("bench", "generator_idle")),
    Column("learner_idle", "learner idle", "{:.0%}", _summary("idle_ratio", "learner")),
    Column("staleness_mean", "staleness", "{:.2f}", _summary("staleness", "mean")),
    Column("tokens_generated", "tokens generated", "{:,.0f}", _summary("tokens", "generated"), ranged=True),
    Column("tokens_trained", "trained", "{:,.0f}", _summary("tokens", "trained")),
    Column("tokens_rejected", "rejected", "{:,.0f}", _summary("tokens", "rejected")),
    Column("tokens_cancelled", "cancelled", "{:,.0f}", _summary("tokens", "cancelled_tail")),
    Column("tokens_other", "other", "{:,.0f}", _other_tokens),
    Column("useful_share", "useful", "{:.0%}", _share(("tokens", "trained"), ("tokens", "generated"))),
)
LEARNED: Final = (
    Column("length_finished", "length finished", "{:.1f}", _of_steps("response_length/generated", statistics.fmean)),
    Column("length_kept", "length kept", "{:.1f}", _share(("tokens", "trained"), ("rollouts", "trained"))),
    Column("reward_before", "reward before", "{:.3f}", _summary("eval", "before", "reward")),
    Column("reward_after", "reward after", "{:.3f}", _summary("eval", "after", "reward"), ranged=True),
    Column("length_before", "length before", "{:.1f}", _summary("eval", "before", "response_length")),
    Column("length_after", "length after", "{:.1f}", _summary("eval", "after", "response_length"), ranged=True),
)
OFF_POLICY: Final = (
    Column("staleness_mean", "staleness", "{:.2f}", _summary("staleness", "mean")),
    Column("staleness_max", "largest", "{:.0f}", _summary("staleness", "max")),
    Column("mismatch_kl", "KL", "{:.1e}", _of_steps("mismatch_kl", statistics.fmean)),
    Column("ess", "ESS", "{:.0%}", _of_steps("learner/ess", statistics.fmean)),
    Column("ess_corrected", "corrected", "{:.0%}", _of_steps("learner/ess_corrected", statistics.fmean)),
    Column("clip_fraction", "clipped", "{:.1%}", _of_steps("learner/clip_fraction", statistics.fmean)),
    Column("mask_fraction", "masked", "{:.1%}", _of_steps("learner/masked_fraction", statistics.fmean)),
    Column("capped_fraction", "capped", "{:.1%}", _of_steps("learner/tis_capped_fraction", statistics.fmean)),
    Column("reward_last", "reward, last 5 steps", "{:.3f}", _of_steps("reward/mean", _last_mean), ranged=True),
    Column("reward_before", "held-out before", "{:.3f}", _summary("eval", "before", "reward")),
    Column("reward_after", "after", "{:.3f}", _summary("eval", "after", "reward"), ranged=True),
)
TARGETS: Final = (0.8, 0.85, 0.9)
"""Held-out rewards that the race is run to."""
RACE: Final = (
    Column("training_s", "training s", "{:.1f}", _summary("bench", "training_s"), ranged=True),
    Column("step_s", "step s", "{:.2f}", _of_steps("learner/step_s", statistics.median, skip=1)),
    *(Column(f"s_to_{t:g}", f"s to {t:g}", "{:.1f}", _seconds_to(t), ranged=True) for t in TARGETS),
    Column("tokens_per_s", "trained tokens/s", "{:,.0f}", _training_tokens_per_s, ranged=True),
    Column("generator_idle", "generator idle", "{:.0%}", _summary("bench", "generator_idle")),
    Column("learner_idle", "learner idle", "{:.0%}", _summary("idle_ratio", "learner")),
    Column("staleness_mean", "staleness", "{:.2f}", _summary("staleness", "mean")),
    Column("useful_share", "useful", "{:.0%}", _share(("tokens", "trained"), ("tokens", "generated"))),
    Column("cancelled_share", "cancelled", "{:.0%}", _share(("rollouts", "cancelled_tail"), ("rollouts", "generated"))),
    Column("length_mean", "length", "{:.1f}", _length_mean),
    Column("length_p99", "p99", "{:.0f}", _length_p99),
    Column("length_after", "length after", "{:.1f}", _summary("eval", "after", "response_length")),
    Column("reward_equal_time", "reward at equal time", "{:.3f}", _reward_at_equal_time),
    Column("reward_after", "reward after", "{:.3f}", _summary("eval", "after", "reward"), ranged=True),
)
_ONLY_CSV: Final = (
    Column("tokens_stale", "", "", _summary("tokens", "stale")),
    Column("tokens_failed", "", "", _summary("tokens", "failed")),
    Column("tokens_cancelled_shutdown", "", "", _summary("tokens", "cancelled_shutdown")),
    Column("rollouts_generated", "", "", _summary("rollouts", "generated")),
    Column("rollouts_trained", "", "", _summary("rollouts", "trained")),
)
ALL: Final = tuple({column.key: column for column in (*SPEED, *LEARNED, *OFF_POLICY, *RACE, *_ONLY_CSV)}.values())
"""Every figure once: the columns of the CSV."""


@dataclass(frozen=True, slots=True)
class TableForm:
    """One kind of table."""

    title: str
    """Stands in the marks between which the table is written."""
    row: str
    """What a row is."""
    parts: tuple[tuple[Column, ...], ...]
    """One table each, below one another."""
    legend: str
    """What the words over the columns mean."""

    @property
    def marks(self) -> tuple[str, str]:
        """The lines before and behind the table in a file."""
        begins, ends = (
            f"<!-- the {self.title} of `darts-async bench --live` {word} -->" for word in ("begins", "ends")
        )
        return begins, ends


TABLES: Final = {
    "presets": TableForm(
        "table",
        "preset",
        (SPEED, LEARNED),
        "`training s`: from the first dispatch to the last step. `other` tokens: still running at the end, stale or "
        "failed. `useful`: trained over generated tokens. `length finished`: without cancelled candidates.",
    ),
    "race": TableForm(
        "race",
        "preset",
        (RACE,),
        "`s to R`: training time at the first version whose held-out reward was seen to be R or more, mean over the "
        "seeds that got there; checkpoints are scored behind the run (`checkpoint.every_steps`), not in its time. "
        "`useful`: trained over generated tokens; `cancelled`: share of the candidates; `length`, `p99`: of the "
        "candidates that ended. `reward at equal time`: when the seed's fastest cell was done.",
    ),
    "off_policy": TableForm(
        "off-policy table",
        "setting",
        (OFF_POLICY,),
        "Means over steps, steps weighing alike; shares are of the loss tokens. `staleness`: versions between a token "
        "and the policy that trains on it, mean over tokens, and the largest of a group. `KL`: of the behaviour policy "
        "to the policy (k3), before any correction. `ESS`: effective sample size of the importance weights; "
        "`corrected`: of the factors that the setting puts on tokens' gradients (0 where clipped or masked). `reward`: "
        "over all finished candidates.",
    ),
}
"""By the name that `--table` takes."""
