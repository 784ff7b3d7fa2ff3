"""Characters of a picture: sparklines and bars, in Unicode or in ASCII, and text that is safe on a terminal. Pure.

Invariant: whatever a name or a warning contains, what is drawn holds no control character and, in ASCII, no other one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size

__all__ = ["ASCII", "UNICODE", "Glyphs", "glyphs_for"]


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set of characters."""

    sparks: str
    """From low to high."""
    full: str
    empty: str
    ellipsis: str
    dot: str
    """Between two things on a line."""
    encoding: str = "utf-8"

    def clean(self, text: str) -> str:
        """Text of others on one line: no control characters, nothing that the terminal cannot show."""
        text = "".join(char if char.isprintable() else " " for char in text)
        return text.encode(self.encoding, "replace").decode(self.encoding)

    def cut(self, text: str, width: int) -> str:
        """At most so many columns, of clean text."""
        if cell_len(text) <= width:
            return text
        if width <= len(self.ellipsis):
            return set_cell_size(text, max(width, 0))
        return set_cell_size(text, width - len(self.ellipsis)).rstrip() + self.ellipsis

    def wrap(self, text: str, width: int, lines: int) -> list[str]:
        """Text of others on at most so many lines of so many columns; words longer than a line are cut."""
        rows = [""]
        for word in self.clean(text).split():
            joined = f"{rows[-1]} {word}" if rows[-1] else word
            if rows[-1] and cell_len(joined) > width:
                rows.append(word)
            else:
                rows[-1] = joined
        if len(rows) > lines:
            rows = [*rows[: lines - 1], " ".join(rows[lines - 1 :])]
        return [self.cut(row, width) for row in rows]

    def spark(self, values: Sequence[float], low: float, high: float) -> str:
        """A character a value, by where it lies between the two."""
        top = len(self.sparks) - 1
        if not high > low:
            return self.sparks[top // 2] * len(values)
        return "".join(self.sparks[min(max(round((v - low) / (high - low) * top), 0), top)] for v in values)

    def bar(self, share: float, width: int) -> tuple[str, str]:
        """The full and the empty part; what is not empty shows at least one full character, and the other way round."""
        if not math.isfinite(share) or share <= 0:
            return "", self.empty * width
        full = min(max(round(share * width), 1), width if share >= 1 else max(width - 1, 0))
        return self.full * full, self.empty * (width - full)


UNICODE: Final = Glyphs(sparks="▁▂▃▄▅▆▇█", full="━", empty="╌", ellipsis="…", dot="·")
ASCII: Final = Glyphs(sparks="_.-~=+*#", full="#", empty="-", ellipsis="..", dot="-", encoding="ascii")


def glyphs_for(encoding: str, environ: Mapping[str, str] | None = None) -> Glyphs:
    """What a terminal can show: the encoding of the output, and the locale, which may say less.

    (Under `LC_ALL=C` Python writes UTF-8; the terminal may well not expect it.)
    """
    environ = os.environ if environ is None else environ
    locale = next((environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environ.get(name)), "")
    is_utf8 = encoding.lower().replace("-", "").replace("_", "") in {"utf8", "utf16", "utf32"}
    return UNICODE if is_utf8 and locale not in {"C", "POSIX"} else ASCII
