"""Rows that cannot be used: counted, by reason, with the places of the first ones; too many of them are an error.

Invariant: what is dropped is told. `sentence` is what a user sees before the run starts.
"""

from __future__ import annotations

from typing import Final

from darts_async.errors import ConfigError

__all__ = ["BadRows"]

MAX_REASONS: Final = 10
MAX_PLACES: Final = 5
DEFAULT_ROWS: Final = 10
DEFAULT_SHARE: Final = 0.01
_MAX_CHARS: Final = 200
MAX_SENTENCE_CHARS: Final = 4000
"""Half of what a warning may hold on its way to the launcher."""


class BadRows:
    """The rows of one task's data, as they are read."""

    def __init__(self) -> None:
        self.num_rows = 0
        """Read so far, good and bad."""
        self.num_bad = 0
        self._places: dict[str, list[str]] = {}
        """Reason to the first places."""
        self._counts: dict[str, int] = {}

    def skip(self, place: str, why: str) -> None:
        """Enter a row that cannot be used. `place`: file and line, as a person looks it up."""
        self.num_bad += 1
        why = why[:_MAX_CHARS]
        if why not in self._counts and len(self._counts) == MAX_REASONS:
            return
        self._counts[why] = self._counts.get(why, 0) + 1
        places = self._places.setdefault(why, [])
        if len(places) < MAX_PLACES:
            places.append(place)

    @property
    def sentence(self) -> str:
        """What was skipped, where and why; empty if nothing was."""
        if not self.num_bad:
            return ""
        parts = []
        for why, count in sorted(self._counts.items(), key=lambda entry: -entry[1]):
            places = ", ".join(self._places[why])
            more = f" and {count - len(self._places[why])} more" if count > len(self._places[why]) else ""
            parts.append(f"{places}{more}: {why}")
        others = self.num_bad - sum(self._counts.values())
        if others:
            parts.append(f"and {others} for other reasons")
        text = f"{self.num_bad} of {self.num_rows} rows cannot be used: {'; '.join(parts)}"
        return text if len(text) <= MAX_SENTENCE_CHARS else text[: MAX_SENTENCE_CHARS - 3] + "..."

    def check(self, bound: float | None) -> None:
        """Raise `ConfigError` when there are more than `task.params.max_bad_rows` allows.

        bound: a number of rows; below 1 a share of them; None: 10 rows or 1 %, whichever is more.
        """
        if bound is None:
            most, said = max(DEFAULT_ROWS, int(DEFAULT_SHARE * self.num_rows)), "the default of 10 rows or 1 %"
        elif 0 < bound < 1:
            most, said = int(bound * self.num_rows), f"{bound:.2%}"
        else:
            most, said = int(bound), f"the {int(bound)} allowed"
        if self.num_bad > most:
            raise ConfigError(
                "task.params.max_bad_rows",
                "unset" if bound is None else bound,
                f"more than {said}: {self.sentence}",
                "Mend those rows, or the names of the columns in task.params; or raise task.params.max_bad_rows.",
            )
