"""The configs of runs as one table: what differs from the defaults first, what differs between the runs marked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from darts_async.config.rules import resolve
from darts_async.config.schema import Config

__all__ = ["ConfigRow", "config_rows", "flatten", "read_config"]

MAX_BYTES: Final = 1 << 20
MAX_SHOWN: Final = 300
"""Characters of a value."""
NOT_SET: Final = "not set"
_OF_THIS_RUN: Final = frozenset({"run.name", "run.dir"})
"""Differ between any two runs, and say nothing."""


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """One key, and what it is in each run."""

    key: str
    values: tuple[str, ...]
    default: str
    changed: bool
    """Some run has another value than the default."""
    differs: bool
    """Not all runs have the same."""


def read_config(path: Path) -> dict[str, Any]:
    """Read a resolved config as flat keys. Raises `OSError`, `ValueError` when it is no TOML."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return flatten(tomllib.loads(data.decode()))


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables become dotted keys; an empty table, and a list, is a value."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def config_rows(configs: Sequence[Mapping[str, Any] | None]) -> list[ConfigRow]:
    """One row a key; None: a run whose config cannot be read. A resolved config has every key of the version that wrote
    it: one that it lacks is newer than that, and no difference."""
    known = [config for config in configs if config is not None]
    if not known:
        return []
    defaults = flatten(resolve(Config()).model_dump(exclude_none=True))
    keys = dict.fromkeys((*defaults, *(key for config in known for key in config)))
    rows = []
    for key in keys:
        default = defaults.get(key)
        own = [config.get(key, default) for config in known]
        if default == {} and any(other.startswith(f"{key}.") for other in keys):
            continue  # a table that is empty by default, and has entries here
        rows.append(
            ConfigRow(
                key=key,
                values=tuple("?" if config is None else _shown(config.get(key)) for config in configs),
                default=_shown(default),
                changed=key not in _OF_THIS_RUN and any(value != default for value in own),
                differs=key not in _OF_THIS_RUN and any(value != own[0] for value in own),
            )
        )
    return sorted(rows, key=lambda row: (not row.differs, not row.changed))


def _shown(value: object) -> str:
    if value is None:
        return NOT_SET
    text = value if isinstance(value, str) and value else repr(value)
    text = {"True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
