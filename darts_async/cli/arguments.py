"""Words of the command line that several verbs take: a config, and keys of it as `--section.key VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from darts_async.cli.words import complete_words, key_items

__all__ = ["ConfigVerb", "config_arguments", "parse_arguments", "parse_names"]


class ConfigVerb(click.Command):
    """A verb that takes any key of the config beside its own options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**(kwargs.get("context_settings") or {}), "ignore_unknown_options": True}
        super().__init__(*args, **kwargs)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Return its own options and the keys of the config."""
        own = super().shell_complete(ctx, incomplete)
        return [*own, *key_items(incomplete)] if incomplete.startswith("--") else own


config_arguments = click.argument(
    "arguments",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[CONFIG.toml] [--section.key VALUE ...]",
    shell_complete=complete_words,
)
"""The words that `parse_arguments` reads."""


def parse_arguments(arguments: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """Split `[CONFIG] [--section.key VALUE | --section.key=VALUE ...]`. Raises `click.UsageError`."""
    source: str | None = None
    overrides: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if source is not None or word.startswith("-"):
                raise click.UsageError(f"unexpected argument {word!r}: give one CONFIG and --section.key VALUE pairs")
            source = word
            continue
        key, equals, value = word[2:].partition("=")
        if "." not in key:
            raise click.UsageError(f"no such option --{key}: keys of the config are written --section.key VALUE")
        if not equals:
            if not rest:
                raise click.UsageError(f"--{key} needs a value")
            value = rest.pop(0)
        overrides.append((key, value))
    return source, overrides


def parse_names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
