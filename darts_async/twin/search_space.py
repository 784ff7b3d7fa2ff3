"""What `darts-async tune` varies, what it measures of a setting, and which setting it recommends. Pure.

Three objectives: trained tokens per second (up), mean staleness of a token (down), and the share of generated tokens
that is not trained on (down). A setting is on the front when no other is at least as good in all and better in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from darts_async.config import Config
from darts_async.errors import ConfigError
from darts_async.twin.figures import Figures
from darts_async.twin.profile import Profile

__all__ = ["KNOBS", "Choice", "Range", "Trial", "finalists", "front", "knobs_for", "overrides", "recommend"]

_CLOSE: Final = 0.03
"""Settings within this share of the fastest count as equally fast: few steps cannot tell them apart."""


@dataclass(frozen=True, slots=True)
class Range:
    """A whole number between two bounds, both included."""

    key: str
    low: int
    high: int
    log: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, as people write them in a config."""

    key: str
    values: tuple[str, ...]


Knob = Range | Choice
KNOBS: Final = ("in_flight", "ready", "chunk", "budget", "eta", "rule", "min_chunk", "split")
DEFAULT_KNOBS: Final = ("in_flight", "ready", "budget", "eta", "rule")


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One setting that was tried."""

    number: int
    settings: dict[str, str]
    """Config key to value, as people write it."""
    figures: Figures | None
    """None when it is no valid setting, or its run did not end."""
    reason: str = ""
    """Why there are no figures."""
    runs: int = 1
    """Runs, each with a seed of its own, that the figures are the mean of."""


def knobs_for(config: Config, names: Sequence[str], profile: Profile) -> list[Knob]:
    """Return the knobs of these names for a config on a profile.

    Raises `ConfigError` for an unknown name, or one that makes no sense for this config.
    """
    step, size = config.group.groups_per_step, config.group.size
    slots = config.generator.max_num_seqs * config.generator.replicas
    most = (profile.devices - 1) // profile.devices_per_replica
    knobs: dict[str, Knob] = {
        "in_flight": Range("queues.in_flight_groups", max(1, step // 4), max(step * 4, 2 * slots // size)),
        "ready": Range("queues.ready_groups", 1, max(16, 2 * step)),
        "chunk": Range("queues.chunk_tokens", 16, 2048),
        "min_chunk": Range("queues.min_chunk", 1, step),
        "budget": Range("allocation.budget", size, 2 * size, log=False),
        "eta": Range("pipeline.max_staleness", 0, 4, log=False),
        "rule": Choice("selection.rule", ("survivor", "shortest", "first_finished", "dual_end", "all")),
        "split": Range("generator.replicas", 1, max(1, most), log=False),
    }
    for name in names:
        if name not in knobs:
            raise ConfigError("--knobs", name, "is no knob", f"Choose from {', '.join(KNOBS)}.")
    if "split" in names and most < 1:
        fix = "Choose a profile with several `devices`, or leave split out."
        raise ConfigError("--knobs", "split", f"needs something to split, and {profile.name} has nothing", fix)
    if "eta" in names and config.pipeline.mode in {"sync", "one_step_off"}:
        fix = "Set pipeline.mode to `async`, or leave eta out of --knobs."
        raise ConfigError("--knobs", "eta", f"is fixed by pipeline.mode = {config.pipeline.mode!r}", fix)
    return [knobs[name] for name in dict.fromkeys(names)]


def overrides(config: Config, settings: dict[str, str]) -> list[tuple[str, str]]:
    """Return the config keys of a trial's settings, with those that have to follow: the mode from the staleness bound,
    both ends and the budget from the rule."""
    found = dict(settings)
    if (eta := settings.get("pipeline.max_staleness")) is not None:
        found["pipeline.mode"] = "stream" if eta == "0" else "async"
    if (rule := settings.get("selection.rule")) is not None:
        both_ends = rule in {"survivor", "dual_end"}
        found["group.keep_longest"] = str(max(1, config.group.keep_longest) if both_ends else 0)
        if rule == "all":
            found["allocation.budget"] = str(config.group.size)
        if rule != "dual_end":
            found["allocation.prune_fraction"] = "0"
    return list(found.items())


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other one beats, the fastest first."""
    done = [trial for trial in trials if trial.figures is not None]
    best = [trial for trial in done if not any(_beats(other, trial) for other in done)]
    unique = {_objectives(trial): trial for trial in reversed(best)}
    return sorted(unique.values(), key=_objectives)


def finalists(trials: Sequence[Trial], count: int, max_staleness: float | None = None) -> list[Trial]:
    """Return the settings to run with further seeds: the fastest ones that are allowed. The fastest of many noisy
    figures is too good to be true; their means over further seeds are not."""
    done = [trial for trial in trials if trial.figures is not None and _allowed(trial, max_staleness)]
    unique = {tuple(sorted(trial.settings.items())): trial for trial in done}
    return sorted(unique.values(), key=_objectives)[:count]


def recommend(trials: Sequence[Trial], max_staleness: float | None = None) -> tuple[Trial, str] | None:
    """Return the setting to take with the reason in a sentence, or None when nothing has figures.

    Of those nearly as fast as the fastest, the one that wastes least, then the least stale one. Where some settings
    were run with further seeds, one of them.
    """
    runs = max((trial.runs for trial in trials if trial.figures is not None), default=1)
    allowed = front([trial for trial in trials if trial.runs == runs and _allowed(trial, max_staleness)])
    if not allowed:
        return None
    fastest = _rate(allowed[0])
    close = [trial for trial in allowed if _rate(trial) >= (1 - _CLOSE) * fastest]
    chosen = min(close, key=lambda trial: (round(_objectives(trial)[2], 2), _objectives(trial)[1]))
    figures = chosen.figures
    assert figures is not None
    if len(close) == 1:
        why = f"the fastest: {figures.tokens_per_s:,.0f} trained tokens/s, none other within {_CLOSE:.0%} of it"
    else:
        why = (
            f"{figures.tokens_per_s:,.0f} trained tokens/s, within {_CLOSE:.0%} of the fastest ({fastest:,.0f}); of "
            f"the {len(close)} settings that are, it wastes least ({figures.wasted:.0%} of its tokens; staleness "
            f"{figures.staleness:.2f})"
        )
    limit = "" if max_staleness is None else f"; staleness at most {max_staleness:g} was asked for"
    return chosen, why + limit


def _allowed(trial: Trial, max_staleness: float | None) -> bool:
    return trial.figures is not None and (max_staleness is None or trial.figures.staleness <= max_staleness)


def _rate(trial: Trial) -> float:
    assert trial.figures is not None
    return trial.figures.tokens_per_s


def _objectives(trial: Trial) -> tuple[float, float, float]:
    """All to be small."""
    assert trial.figures is not None
    return -trial.figures.tokens_per_s, trial.figures.staleness, trial.figures.wasted


def _beats(one: Trial, other: Trial) -> bool:
    mine, theirs = _objectives(one), _objectives(other)
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


Objective = Literal["maximize", "minimize"]
DIRECTIONS: Final[tuple[Objective, ...]] = ("maximize", "minimize", "minimize")
"""Of the objectives, in the order of the first three figures."""
