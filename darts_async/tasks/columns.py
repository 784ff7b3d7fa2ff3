"""From a row of somebody's data to a prompt: which columns are what, and what a row must be to be usable.

A prompt column holds the text of the user's message, or a conversation (`[{"role": ..., "content": ...}, ...]`) that
ends with it. Names with dots reach into nested columns (`reward_model.ground_truth`). Pure: a row that cannot be used
raises `BadRow` with the reason; who reads the file knows where it stands.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from darts_async.errors import ConfigError

__all__ = ["MAX_CHARS", "BadRow", "Columns", "Item", "parse_template"]

MAX_CHARS: Final = 1 << 20
"""Of a prompt or an answer. A bound against garbage, not a tuning knob."""

_ROLES: Final = frozenset({"system", "user", "assistant"})
_MISSING: Final = object()


class BadRow(ValueError):
    """A row that cannot become a prompt, and why."""


@dataclass(frozen=True, slots=True)
class Item:
    """A row that can: everything of a prompt but its id, where it has none of its own."""

    content: str
    answer: str
    name: str = ""
    """Its own id, if the data has one."""
    stratum: str = "all"
    before: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    origin: int = 0
    """Number that the task itself knows the row by."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are what. An empty name: there is none."""

    prompt: str = "prompt"
    answer: str = "answer"
    id: str = ""
    stratum: str = ""
    keep: tuple[str, ...] = ()
    """Columns that reward functions get as `prompt.extra`."""
    system: str = ""
    """System prompt, where the row has none."""
    template: tuple[tuple[str, str], ...] = (("", "prompt"),)
    """The user message: texts, each followed by a column (`parse_template`)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read."""
        wanted = [self.prompt, self.answer, self.id, self.stratum, *self.keep]
        wanted += [column for _, column in self.template if column != "prompt"]
        return tuple(dict.fromkeys(name for name in wanted if name))

    def item(self, row: Mapping[str, Any]) -> Item:
        """Read one row. Raises `BadRow`."""
        before, question = self._conversation(_value(row, self.prompt))
        if self.system and not any(role == "system" for role, _ in before):
            before = (("system", self.system), *before)
        parts = []
        for text, column in self.template:
            parts.append(text)
            if column:
                parts.append(question if column == "prompt" else _text(column, _value(row, column)))
        content = "".join(parts)
        answer = _text(self.answer, _value(row, self.answer)) if self.answer else ""
        for text in (content, answer, *(text for _, text in before)):
            _check_text(text)
        return Item(
            content=content,
            answer=answer,
            name=_text(self.id, _value(row, self.id)) if self.id else "",
            stratum=(_text(self.stratum, _value(row, self.stratum))[:64] or "all") if self.stratum else "all",
            before=before,
            extra={name: _plain(name, row) for name in self.keep},
        )

    def _conversation(self, value: Any) -> tuple[tuple[tuple[str, str], ...], str]:
        if isinstance(value, str):
            if not value.strip():
                raise BadRow(f"column `{self.prompt}` is empty")
            return (), value
        if not isinstance(value, Sequence) or not value:
            raise BadRow(f"column `{self.prompt}` holds {_kind(value)}, not a text or a conversation")
        turns: list[tuple[str, str]] = []
        for turn in value:
            role = turn.get("role") if isinstance(turn, Mapping) else None
            text = turn.get("content") if isinstance(turn, Mapping) else None
            if role not in _ROLES or not isinstance(text, str):
                raise BadRow(f"column `{self.prompt}`: a turn needs `role` (system, user, assistant) and a text")
            turns.append((role, text))
        if turns[-1][0] != "user" or not turns[-1][1].strip():
            raise BadRow(f"column `{self.prompt}`: the conversation does not end with a message of the user")
        return tuple(turns[:-1]), turns[-1][1]


def parse_template(key: str, template: str) -> tuple[tuple[str, str], ...]:
    """Take a template such as `{prompt} Think first.` apart. Raises `ConfigError`; braces are written twice."""
    fix = "Write column names in braces, `{prompt}` for the prompt; double braces that are meant as such."
    try:
        parts = [(text, column or "") for text, column, spec, change in _fields(key, template, fix)]
    except ValueError as error:
        raise ConfigError(key, template, f"is not a template ({error})", fix) from None
    if not any(column for _, column in parts):
        raise ConfigError(key, template, "names no column: every prompt would be the same", fix)
    return tuple(parts)


def _fields(key: str, template: str, fix: str) -> list[tuple[str, str | None, str | None, str | None]]:
    fields = list(string.Formatter().parse(template))
    for _, column, spec, change in fields:
        if column == "" or spec or change:
            raise ConfigError(key, template, "has a pair of braces without a plain column name", fix)
    return fields


def _value(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name, _MISSING)
    if value is _MISSING and "." in name:
        value = row
        for part in name.split("."):
            value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    if value is _MISSING:
        raise BadRow(f"no column `{name}` (it has {', '.join(map(str, list(row)[:8])) or 'none'})")
    return value


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    raise BadRow(f"column `{name}` holds {_kind(value)}, not a text or a number")


def _check_text(text: str) -> None:
    if len(text) > MAX_CHARS:
        raise BadRow(f"a text of {len(text)} characters (at most {MAX_CHARS})")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRow("a text with half a surrogate pair, which no tokenizer takes") from None


def _plain(name: str, row: Mapping[str, Any]) -> Any:
    value = _value(row, name)
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadRow(f"column `{name}` cannot be kept ({error})") from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
