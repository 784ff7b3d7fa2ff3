"""Rows that cannot be used: counted, the first ones remembered with their place, too many of them an error.

Invariant: what is dropped is told. `notes` are the sentences that a user sees before the run starts.
"""

from __future__ import annotations

from typing import Final

from darts_async.errors import ConfigError

__all__ = ["BadRows"]

MAX_SHOWN: Final = 10
MAX_NOTE_CHARS: Final = 2000
DEFAULT_ROWS: Final = 10
DEFAULT_SHARE: Final = 0.01


class BadRows:
    """The rows of one task's data, as they are read."""

    def __init__(self) -> None:
        self.num_rows = 0
        """Read so far, good and bad."""
        self.num_bad = 0
        self._shown: list[str] = []

    def skip(self, place: str, why: str) -> None:
        """Enter a row that cannot be used. `place`: file and line, as a person looks it up."""
        self.num_bad += 1
        if len(self._shown) < MAX_SHOWN:
            self._shown.append(f"{place}: {why}"[:300])

    @property
    def sentence(self) -> str:
        """What was skipped and where; empty if nothing was."""
        if not self.num_bad:
            return ""
        more = f"; and {self.num_bad - len(self._shown)} more" if self.num_bad > len(self._shown) else ""
        head = f"{self.num_bad} of {self.num_rows} rows cannot be used: "
        return (head + "; ".join(self._shown))[: MAX_NOTE_CHARS - len(more)] + more

    def check(self, bound: float | None) -> None:
        """Raise `ConfigError` when there are more than `task.params.max_bad_rows` allows.

        bound: a number of rows; below 1 a share of them; None: 10 rows or 1 %, whichever is more.
        """
        if bound is None:
            most, said = max(DEFAULT_ROWS, int(DEFAULT_SHARE * self.num_rows)), "10 rows or 1 %, the default"
        elif 0 < bound < 1:
            most, said = int(bound * self.num_rows), f"{bound:.2%} of the rows"
        else:
            most, said = int(bound), f"{int(bound)} rows"
        if self.num_bad > most:
            raise ConfigError(
                "task.params.max_bad_rows",
                bound,
                f"more than {said} cannot be used ({self.sentence})",
                "Mend those rows or the names of the columns; or raise task.params.max_bad_rows.",
            )
