"""What a shell may complete: keys of the config, their values, the built-in configs. Loads the schema when asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["complete_words", "key_items"]


def key_items(incomplete: str) -> list[CompletionItem[str]]:
    """Return the `--section.key`s that begin so, each with the first sentence of its documentation."""
    return [
        CompletionItem(f"--{key}", help=" ".join((field.description or "").split()).partition(". ")[0])
        for key, field in _fields()
        if f"--{key}".startswith(incomplete)
    ]


def complete_words(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return what may stand next among a verb's `[CONFIG.toml] [--section.key VALUE ...]`, other than a key."""
    before: Sequence[str] = ctx.params.get(parameter.name or "") or ()
    key, has_source = _read(before)
    if key:
        return [CompletionItem(value) for value in _values(key) if value.startswith(incomplete)]
    if has_source:
        return []
    from darts_async.config import builtin_configs  # noqa: PLC0415 - late: see the package

    names = sorted(path.stem for path in builtin_configs().glob("*.toml"))
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _read(words: Sequence[str]) -> tuple[str, bool]:
    """Return the key that waits for its value, if the last word is one; and whether there is a config already."""
    has_source, rest = False, iter(words)
    for word in rest:
        if not word.startswith("--"):
            has_source = True
        elif "=" not in word and next(rest, None) is None:
            return word[2:], has_source
    return "", has_source


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    from darts_async.config import Config  # noqa: PLC0415

    for name, section in Config.model_fields.items():
        for key, field in getattr(section.annotation, "model_fields", {}).items():
            yield f"{name}.{key}", field


def _values(key: str) -> list[str]:
    """The values of a key that has a fixed set of them."""
    return next((list(_choices(field.annotation)) for name, field in _fields() if name == key), [])


def _choices(kind: Any) -> Iterator[str]:
    if kind is bool:
        yield from ("true", "false")
    elif get_origin(kind) is Literal:
        yield from (str(value) for value in get_args(kind))
    else:
        for part in get_args(kind):
            yield from _choices(part)
