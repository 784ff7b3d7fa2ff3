"""Reading the `[task]` section: integers with a range, unknown keys refused with the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from darts_async.errors import ConfigError

__all__ = ["int_params"]


def int_params(given: Mapping[str, object], known: Mapping[str, tuple[int, int, int]]) -> dict[str, int]:
    """Defaults overlaid with what is given. `known` maps a name to (default, lowest, highest).

    Raises ConfigError, with the key as the user wrote it in the file, for an unknown name, a value that is
    not an integer (true and false are not), or one out of range.
    """
    values = {name: default for name, (default, _, _) in known.items()}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ConfigError(
                key=f"task.params.{name}",
                value=value,
                rule=f"the task has no such parameter (known: {', '.join(known)})",
                fix=f"Did you mean {near[0]!r}?" if near else "Remove it.",
            )
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
