"""Settings of a run that may change while it goes on: which they are, who has to know, and why the others may not.

A change is checked as if the run had been started with it (schema and rules), so that nothing can be set live that
`up` would refuse; a setting is live only if every role that heeds it can follow at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from pydantic import ValidationError

from darts_async.config.load import apply_override, explain_error
from darts_async.config.rules import resolve
from darts_async.config.schema import Config
from darts_async.errors import ConfigError

__all__ = ["LIVE", "UNSETTABLE", "change", "parse_assignments", "value_of", "why_not", "with_values"]

_Role: TypeAlias = Literal["allocator", "generator", "selector", "learner"]
"""As in `messages`, which stand above configs."""

LIVE: Final[dict[str, tuple[_Role, ...]]] = {
    "queues.in_flight_groups": ("allocator",),
    "queues.oversample_groups": ("allocator",),
    "queues.min_chunk": ("learner",),
    "allocation.budget": ("allocator",),
    "pipeline.max_staleness": ("allocator",),
    "run.max_wall_s": ("learner",),
    "run.max_trained_tokens": ("learner",),
    "checkpoint.every_steps": ("learner", "allocator"),
    "checkpoint.recovery_steps": ("learner",),
    "launch.stall_s": (),
}
"""Key to the roles that heed it, in the order in which they are told; nobody where the launcher itself does. (Every
change goes to the selector too, the last of all: it writes it into the ledger.)"""

UNSETTABLE: Final = ("run.max_wall_s", "run.max_trained_tokens")
"""Keys that take `none`: no limit."""

_WHY_NOT: Final[dict[str, str]] = {
    "queues.ready_groups": "is the high-water mark of a socket, which is fixed when it is opened",
    "queues.trajectory_hwm": "is the high-water mark of a socket, which is fixed when it is opened",
    "queues.chunk_tokens": "decides which frozen policies the learner loads at the start",
    "pipeline.mode": "decides how every role works from the start",
    "pipeline.unfinished": "decides how every role works from the start",
    "run.steps": "is what the learning rate's schedule, dispatch and the order of training are laid out for; to end "
    "earlier set run.max_wall_s or run.max_trained_tokens",
    "run": "names the run and what it draws from",
    "allocation": "is what lengths were observed and prompts drawn under",
    "selection": "is what groups under way were planned under",
    "group": "is what groups under way were planned under",
    "model": "is loaded at the start",
    "task": "is loaded at the start",
    "reward": "is what the scoring processes are started with",
    "sampling": "changes what the engine samples from, and with it the importance ratios of what is under way",
    "generator": "changes the engine's start arguments",
    "learner": "changes the objective or the optimiser in mid-run",
    "eval": "is what replicas keep credits and versions for from the start",
    "checkpoint": "is what was decided by when checkpoints were written",
    "launch": "is used when processes and sockets are opened",
    "metrics": "is used when sinks and servers are opened",
}
"""By key or section: why it is not live."""


def change(config: Config, assignments: Sequence[tuple[str, str]]) -> tuple[Config, dict[str, tuple[Any, Any]]]:
    """Return the resolved config with new values, and of every key whose value differs the old and the new one.

    Raises `ConfigError` for a key that does not exist or is not live, a value of another type, or a broken rule.
    """
    for key, text in assignments:
        _check_key(key, text)
    document = config.model_dump(exclude_none=True)
    for key, text in assignments:
        section, _, name = key.partition(".")
        if text == "none" and key in UNSETTABLE:
            document[section].pop(name, None)
        else:
            apply_override(document, key, text)
    try:
        changed = resolve(Config.model_validate(document))
    except ValidationError as error:
        raise explain_error(error) from None
    changes = {key: (value_of(config, key), value_of(changed, key)) for key, _ in assignments}
    return changed, {key: (old, new) for key, (old, new) in changes.items() if old != new}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a config with these values, which `change` has checked: what a role goes on with."""
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: changed})
    return config


def parse_assignments(words: Sequence[str]) -> list[tuple[str, str]]:
    """Split `section.key=value` words. Raises `ConfigError`."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise ConfigError(word[:100], "", "is not an assignment", "Write section.key=value, without spaces.")
        found.append((key.strip(), value.strip()))
    return found


def value_of(config: Config, key: str) -> Any:
    """The value of a `section.key`."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def why_not(key: str) -> str:
    """Why a key is not live, as it follows "it"."""
    return _WHY_NOT.get(key, _WHY_NOT.get(key.partition(".")[0], "is fixed at the start"))


def _check_key(key: str, text: str) -> None:
    if key in LIVE:
        return
    section, _, name = key.partition(".")
    known = Config.model_fields.get(section)
    fields = getattr(known.annotation, "model_fields", {}) if known is not None else {}
    live = ", ".join(LIVE)
    if name.partition(".")[0] not in fields:
        raise ConfigError(key, text, "no such setting", f"Live settings: {live}.")
    raise ConfigError(key, text, f"cannot change while the run goes on: it {why_not(key)}", f"Live settings: {live}.")
