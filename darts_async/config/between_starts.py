"""Settings that may be others when a run that was cut off goes on (`up --resume RUN --section.key VALUE`), and why.

What may change is used anew at every start, or bounds what is yet to come; all else is what the steps so far were made
of. The result is checked as if the run had been started with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from darts_async.config.live import LIVE, UNSETTABLE, value_of, why_not
from darts_async.config.load import apply_override, explain_error
from darts_async.config.rules import resolve
from darts_async.config.schema import Config
from darts_async.errors import ConfigError

__all__ = ["MAY_CHANGE", "config_of_next_start"]

MAY_CHANGE: Final[dict[str, str]] = {
    "launch": "processes and sockets are opened anew",
    "metrics": "who gets the metrics is decided at every start",
    "run.steps": "training goes on longer, at a constant learning rate",
    "queues.ready_groups": "sockets are opened anew",
    "queues.trajectory_hwm": "sockets are opened anew",
    "reward.workers": "the scoring processes are started anew",
    "reward.timeout_s": "the scoring processes are started anew",
    "generator.replicas": "engines are started anew, and hold nothing from before",
    "generator.max_num_seqs": "engines are started anew",
    "generator.cpu_threads": "engines are started anew",
    "generator.cpu_kvcache_gib": "engines are started anew",
    "generator.update_timeout_s": "it is a limit on what is yet to come",
    "learner.max_parity_diff": "it is a limit on what is yet to come",
    "learner.max_bad_steps": "it is a limit on what is yet to come",
    "checkpoint.keep": "the folder is looked through at every start",
    "checkpoint.recovery_steps": "it only says when the next one is due",
    **dict.fromkeys(LIVE, "it may change while the run goes on, too"),
}
"""Key, or section, to the reason."""


def config_of_next_start(config: Config, overrides: Sequence[tuple[str, str]], *, steps_done: int) -> Config:
    """Return a run's config with other values. Raises `ConfigError` for what must stay as it was."""
    document = config.model_dump(exclude_none=True)
    for key, text in overrides:
        section, _, name = key.partition(".")
        if text == "none" and key in UNSETTABLE:
            document[section].pop(name, None)
        else:
            apply_override(document, key, text)
    try:
        changed = resolve(Config.model_validate(document))
    except ValidationError as error:
        raise explain_error(error) from None
    for key, text in overrides:
        section, _, name = key.partition(".")
        place = f"{section}.{name.partition('.')[0]}"
        old, new = value_of(config, place), value_of(changed, place)
        if old != new:
            _check(changed, place, text, old, new, steps_done)
    return changed


def _check(config: Config, key: str, text: str, old: Any, new: Any, steps_done: int) -> None:
    section = key.partition(".")[0]
    if key not in MAY_CHANGE and section not in MAY_CHANGE:
        allowed = ", ".join(f"{name}.*" if "." not in name else name for name in MAY_CHANGE)
        raise ConfigError(
            key,
            text,
            f"cannot change in a run that goes on (it was {old!r}): it {why_not(key)}",
            f"Leave it out, or start another run. What may change: {allowed}.",
        )
    if key == "run.steps" and new < steps_done:
        rule = f"the run has made {steps_done} steps already"
        raise ConfigError(key, text, rule, f"Set it to {steps_done} or more.")
    if key == "run.steps" and config.learner.lr_schedule != "constant":
        raise ConfigError(
            key,
            text,
            f"learner.lr_schedule = {config.learner.lr_schedule!r} was laid out for {old} steps",
            "Leave it out, or start another run from this one's last checkpoint (model.path).",
        )
