"""Reading tables of parameters in a config: types and ranges checked, unknown keys refused with the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from darts_async.errors import ConfigError

__all__ = ["int_params", "read_params"]

_Params = TypeVar("_Params", bound=msgspec.Struct)
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$?(?P<path>.*)`)?$", re.DOTALL)


def int_params(given: Mapping[str, object], known: Mapping[str, tuple[int, int, int]]) -> dict[str, int]:
    """Defaults overlaid with what is given. `known` maps a name to (default, lowest, highest).

    Raises ConfigError, with the key as the user wrote it in the file, for an unknown name, a value that is
    not an integer (true and false are not), or one out of range.
    """
    values = {name: default for name, (default, _, _) in known.items()}
    for name, value in given.items():
        if name not in known:
            raise _unknown("task.params", name, value, known)
        _, lowest, highest = known[name]
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ConfigError(
                key=f"task.params.{name}",
                value=value,
                rule=f"must be an integer from {lowest} to {highest}",
                fix="Set a value in that range, or remove the line to use the default.",
            )
        values[name] = value
    return values


def read_params(key: str, given: Mapping[str, object], kind: type[_Params]) -> _Params:
    """Read a table of parameters into a struct whose fields state types, ranges and defaults.

    Raises ConfigError with the key as the user wrote it: `key` and the field's name.
    """
    known = msgspec.structs.fields(kind)
    for name, value in given.items():
        if name not in {field.name for field in known}:
            raise _unknown(key, name, value, [field.name for field in known])
    for field in known:
        if field.required and field.name not in given:
            raise ConfigError(f"{key}.{field.name}", None, "is needed", f"Add `{field.name} = ...` to [{key}].")
    try:
        return msgspec.convert(dict(given), kind)
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        what, path = (found["what"], found["path"] or "") if found else (str(error), "")
        name = path.lstrip(".").partition(".")[0].partition("[")[0]
        rule = (what[:1].lower() + what[1:]).rstrip(".")
        raise ConfigError(f"{key}{path}", given.get(name), rule, "Mend the value.") from None


def _unknown(key: str, name: str, value: object, known: Iterable[str]) -> ConfigError:
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    listed = ", ".join(names) or "none"
    return ConfigError(
        key=f"{key}.{name}",
        value=value,
        rule=f"there is no such parameter here (known: {listed})",
        fix=f"Did you mean {near[0]!r}?" if near else "Remove it.",
    )
