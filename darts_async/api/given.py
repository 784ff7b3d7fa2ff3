"""A config as Python gives it: a path, a built-in name, a table or a `Config`, with single keys laid over it.

Functions and classes may stand wherever the config takes an import path: they become theirs. Pure: nothing is started.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darts_async.api.import_paths import import_path_of
from darts_async.config import Config
from darts_async.config.load import config_of, read_document
from darts_async.errors import ConfigError

__all__ = ["Given", "read_given"]

Given = str | Path | Mapping[str, Any] | Config | None


def read_given(given: Given, overrides: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Config, str]:
    """Return the checked config, and what its run is to be called after. Raises `ConfigError`.

    `overrides` has keys with dots; `settings` sections, or keys with two underscores in the place of the dot.
    """
    document = _document(given)
    for key, value in as_keys(overrides, settings).items():
        _lay(document, key, value)
    return config_of(document), _stem(given)


def as_keys(overrides: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return both under keys with dots, values as TOML has them. Raises `ConfigError` for a key that is in both."""
    keys = {name.replace("__", "."): value for name, value in settings.items()}
    if twice := sorted(keys.keys() & overrides.keys()):
        raise ConfigError(twice[0], keys[twice[0]], "is given twice", "Leave one out.")
    return {key: _plain(key, _spelt_out(key, value)) for key, value in {**overrides, **keys}.items()}


def _document(given: Given) -> dict[str, Any]:
    if isinstance(given, Config):
        return given.model_dump(exclude_none=True)
    if isinstance(given, Mapping):
        return read_document({key: _plain(key, _spelt_out(key, value)) for key, value in given.items()})
    return read_document("quickstart" if given is None else str(given))


def _stem(given: Given) -> str:
    if isinstance(given, Config | Mapping):
        return "python"
    return "quickstart" if given is None else Path(given).stem


def _lay(document: dict[str, Any], key: str, value: Any) -> None:
    """Set one key; a table is laid over what is there."""
    *path, last = key.split(".")
    if not all((*path, last)):
        raise ConfigError(key, value, "names no key of the config", "Write section.key, or section__key as a keyword.")
    if not path and not isinstance(value, dict):
        fix = f"Write {key}={{'name': value}}, or {key}__name=value."
        raise ConfigError(key, value, "is a section, and takes a table", fix)
    table = document
    for part in path:
        below = table.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(key, value, f"`{part}` is a value, not a section", "Check the name.")
        table = below
    table[last] = _over(table.get(last), value)


def _over(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{name: _over(old.get(name), inner) for name, inner in new.items()}}


def _spelt_out(key: str, value: Any) -> Any:
    """A task in the place of its section, a reward function or several in the place of theirs."""
    if key == "task" and (callable(value) or isinstance(value, str)):
        return {"name": value}
    if key == "reward" and (callable(value) or isinstance(value, list | tuple)):
        functions = value if isinstance(value, list | tuple) else [value]
        return {"functions": [one if isinstance(one, Mapping) else {"name": one} for one in functions]}
    return value


def _plain(key: str, value: Any) -> Any:
    """What TOML would have: no tuples, paths, numpy scalars, functions or classes."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(f"{key}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{key}.{index}", inner) for index, inner in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return import_path_of(key, value)
