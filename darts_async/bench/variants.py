"""What differs between the cells of a preset: named assignments to keys, as people write them at the terminal. Pure.

Two forms. `--variant "NAME: KEY=VALUE, KEY=VALUE"` names a setting of several keys that belong together; all variants
are one axis. `--grid KEY=VALUE,VALUE,...` is an axis of its own. A table has a row for each point of the product.
Invariant: no key is set by two axes, and no two points have the same label, so a label says what a cell is.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from darts_async.errors import ConfigError

__all__ = ["Variant", "make_variants"]

_QUOTES: Final = "\"'"
_OPEN, _CLOSE = "[{", "]}"
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._]+")
_MAX_VARIANTS: Final = 200


@dataclass(frozen=True, slots=True)
class Variant:
    """One point: a label for the row and the assignments that make it."""

    label: str = ""
    """Empty for the only point of no axes."""
    overrides: tuple[tuple[str, str], ...] = ()
    """`section.key` and its value as text."""

    @property
    def folder(self) -> str:
        """The label as part of a folder name."""
        return _NOT_IN_A_NAME.sub("-", self.label).strip("-")


def make_variants(variants: Sequence[str], grids: Sequence[str]) -> list[Variant]:
    """Return the product of all axes, variants first, the last grid fastest. Raises `ConfigError`."""
    axes = [_grid(text) for text in grids]
    if variants:
        axes.insert(0, [_variant(text) for text in variants])
    _check_axes(axes)
    points = [
        Variant(", ".join(part.label for part in parts), tuple(itertools.chain(*(part.overrides for part in parts))))
        for parts in itertools.product(*axes)
    ]
    seen: dict[str, str] = {}
    for point in points:
        if point.folder in seen:
            rule = f"makes two rows whose names are the same or nearly so ({seen[point.folder]!r})"
            raise ConfigError("--variant, --grid", point.label, rule, "Name each value once.")
        seen[point.folder] = point.label
    return points


def _check_axes(axes: Sequence[Sequence[Variant]]) -> None:
    count = 1
    owners: dict[str, int] = {}
    for index, axis in enumerate(axes):
        count *= len(axis)
        for key in {key for point in axis for key, _ in point.overrides}:
            if owners.setdefault(key, index) != index:
                raise ConfigError("--variant, --grid", key, "is set by two of them", "Set a key in one place.")
    if count > _MAX_VARIANTS:
        raise ConfigError("--grid", count, f"the product must have at most {_MAX_VARIANTS} cells", "Leave some out.")


def _variant(text: str) -> Variant:
    """`NAME: KEY=VALUE, KEY=VALUE`; a variant without assignments is the preset as it is."""
    name, colon, rest = text.partition(":")
    if not colon or not name.strip() or "=" in name:
        raise ConfigError("--variant", text, "needs a name", 'Write --variant "NAME: section.key=VALUE, ...".')
    pairs = [_assignment("--variant", part) for part in _split(rest) if part]
    for key, _ in pairs:
        if [other for other, _ in pairs].count(key) > 1:
            raise ConfigError("--variant", text, f"sets {key} twice", "Set it once.")
    return Variant(name.strip(), tuple(pairs))


def _grid(text: str) -> list[Variant]:
    """`KEY=VALUE,VALUE,...`; labels use the last part of the key."""
    key, values = _assignment("--grid", text)
    short = key.rpartition(".")[2]
    parts = _split(values)
    if not all(parts):
        raise ConfigError("--grid", text, "has an empty value", "Remove the comma too many.")
    return [Variant(f"{short} {_readable(part)}", ((key, part),)) for part in parts]


def _assignment(option: str, text: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value or not all(key.partition(".")):
        raise ConfigError(option, text, "is not an assignment", "Write section.key=VALUE.")
    return key, value


def _readable(value: str) -> str:
    """A list of words as `a+b`; everything else as it is written."""
    if value.startswith("["):
        try:
            items = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise ConfigError("--grid", value, "is not a TOML list", 'Write ["a", "b"], and quote it all.') from None
        if items and all(isinstance(item, str) for item in items):
            return "+".join(items)
    return value


def _split(text: str) -> list[str]:
    """Parts between the commas that are in no brackets and no quotes, without the white space around them."""
    return ["".join(part).strip() for part in _parts(text)]


def _parts(text: str) -> Iterator[list[str]]:
    part: list[str] = []
    depth, quote = 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        elif letter == "," and depth == 0:
            yield part
            part = []
            continue
        part.append(letter)
    if depth or quote:
        raise ConfigError("--variant, --grid", text, "leaves a bracket or a quote open", "Close it, and quote it all.")
    yield part
