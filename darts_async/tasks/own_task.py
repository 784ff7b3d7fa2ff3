"""Somebody's own task by import path: a class with prompts and a reward, or a function that returns the prompts.

What it gives is checked here, before anything starts: prompts may be `Prompt`s, dicts with `prompt` and `answer`, or
pairs of them. Rows that cannot be used and prompts that come twice are told, as those of a file.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from darts_async.config.import_path import described, load_object
from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt
from darts_async.tasks.book import BookPrompts
from darts_async.tasks.book_cache import open_book
from darts_async.tasks.columns import BadRow, Columns, Item
from darts_async.tasks.files import Row
from darts_async.tasks.own_data import HELD_OUT_FRACTION, Source, write_book
from darts_async.tasks.rewards import construct

__all__ = ["OwnTask"]

_COLUMNS = frozenset({"prompt", "answer", "id", "stratum", "system"})


class OwnTask:
    """A task around somebody's class or function."""

    def __init__(self, path: str, params: Mapping[str, object]) -> None:
        """Import it and read its prompts. Raises `ConfigError` for whatever is wrong with it."""
        self.name = path
        found = load_object("task.name", path)
        self._task = construct("task.name", path, found, params, "task.params")
        if isinstance(found, type):
            self._require("train_prompts", ())
            sources = [Source(lambda: self._rows("train_prompts"), held_out=False, name="prompt ", unit="")]
            if hasattr(self._task, "held_out_prompts"):
                self._require("held_out_prompts", ())
                sources.append(
                    Source(lambda: self._rows("held_out_prompts"), held_out=True, name="held-out prompt ", unit="")
                )
            if hasattr(self._task, "reward"):
                self._require("reward", ("prompt", "response"))
        else:
            sources = [Source(lambda: _numbered(path, self._task), held_out=False, name="prompt ", unit="")]

        def write(folder: Path) -> None:
            write_book(folder, sources, _item, HELD_OUT_FRACTION, None)

        self._book = open_book(None, [], write)
        self.notes = self._book.info.notes

    @property
    def has_reward(self) -> bool:
        """Whether it scores responses itself."""
        return callable(getattr(self._task, "reward", None))

    def train_prompts(self) -> BookPrompts:
        """What the class or function gave."""
        return self._book.prompts(held_out=False)

    def held_out_prompts(self) -> BookPrompts:
        """What the class gave, or one in twenty prompts."""
        return self._book.prompts(held_out=True)

    def find(self, prompt_id: str) -> Prompt:
        """Return a prompt by its id. Raises `KeyError`."""
        return self._book.prompt(self._book.number_of(prompt_id))

    def reward(self, prompt: Prompt, response: str) -> Any:
        """Call the class's own `reward`; what it returns, or how it fails, is looked at by who asked."""
        return self._task.reward(prompt, response)

    def _require(self, method: str, arguments: tuple[str, ...]) -> None:
        found = getattr(self._task, method, None)
        signature = f"{method}({', '.join(('self', *arguments))})"
        if not callable(found):
            raise ConfigError("task.name", self.name, f"the class lacks `{signature}`", "Add it.")
        try:
            inspect.signature(found).bind(*arguments)
        except TypeError as error:
            raise ConfigError(
                "task.name", self.name, f"`{method}` cannot be called so: {error}", f"Define it as {signature}."
            ) from None

    def _rows(self, method: str) -> Iterator[tuple[int, Row]]:
        try:
            given = getattr(self._task, method)()
        except Exception as error:
            raise ConfigError("task.name", self.name, f"{method}() raised {described(error)}", "Mend it.") from error
        return _numbered(self.name, given)


def _numbered(path: str, given: Any) -> Iterator[tuple[int, Row]]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(
            "task.name",
            path,
            f"gives `{type(given).__name__}` in the place of prompts",
            "Return a list of dicts with `prompt` and `answer`, of such pairs, or of `darts_async.tasks.Prompt`.",
        )
    rows = iter(given)
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            rule = f"prompt {number} raised {described(error)}"
            raise ConfigError("task.name", path, rule, "Mend it.") from error
        yield number, _row(row)


def _row(row: Any) -> Row:
    """Bring what somebody's code gave into one shape."""
    if isinstance(row, Prompt):
        turns = [{"role": role, "content": text} for role, text in row.before]
        return {
            "prompt": [*turns, {"role": "user", "content": row.content}],
            "answer": row.answer,
            "id": row.prompt_id,
            "stratum": row.stratum,
            **row.extra,
        }
    if isinstance(row, tuple | list) and len(row) == 2:
        return {"prompt": row[0], "answer": row[1]}
    if isinstance(row, Mapping):
        return dict(row)
    return BadRow(f"a {type(row).__name__}, not a dict with `prompt` and `answer`")


def _item(row: Mapping[str, Any]) -> Item:
    """Read a row; whatever else it holds is kept for the reward functions."""
    columns = Columns(
        answer="answer" if "answer" in row else "",
        id="id" if "id" in row else "",
        stratum="stratum" if "stratum" in row else "",
        keep=tuple(name for name in row if name not in _COLUMNS),
        system=str(row.get("system", "")),
    )
    return columns.item(row)
