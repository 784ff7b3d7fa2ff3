"""Rewards that compare a response with the reference answer, as text."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from darts_async.tasks.base import Prompt

__all__ = ["Contains", "ExactMatch", "Number", "final_answer", "last_number"]

# A number that stands alone: neither part of a word nor the tail of another one. Thousands may be set apart by commas.
_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?![\w])", re.ASCII)


def final_answer(response: str, *, marker: str = "", tag: str = "") -> str | None:
    """The answer in a response: what follows the last marker, or stands in the last pair of tags, or all of it.

    None when a marker or tags are asked for and are not there.
    """
    if marker:
        _, found, rest = response.rpartition(marker)
        return rest.strip() if found else None
    if tag:
        _, found, rest = response.rpartition(f"<{tag}>")
        inner, closed, _ = rest.partition(f"</{tag}>")
        return inner.strip() if found and closed else None
    return response.strip()


def last_number(text: str) -> str | None:
    """The last number of a text without superfluous signs, zeros and commas; None if there is none."""
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    # Compared as text: int() refuses strings of more than 4,300 digits, which a policy may well write.
    sign = "-" if numbers[-1][0] == "-" else ""
    whole, _, part = numbers[-1].lstrip("+-").replace(",", "").partition(".")
    digits = whole.lstrip("0") or "0"
    if part.rstrip("0"):
        digits += "." + part.rstrip("0")
    return digits if digits == "0" else sign + digits


class ExactMatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 if the answer is exactly the reference, spaces at the ends aside; else 0."""

    marker: str = ""
    """The answer follows the last of these. Empty: see `tag`."""
    tag: str = ""
    """The answer stands in the last `<tag>...</tag>`. Empty: the answer is all of the response."""
    ignore_case: bool = False
    """Capital and small letters are the same."""

    def __call__(self, prompt: Prompt, response: str) -> float:
        """Score a response."""
        answer = final_answer(response, marker=self.marker, tag=self.tag)
        if answer is None:
            return 0.0
        wanted = prompt.answer.strip()
        if self.ignore_case:
            return float(answer.casefold() == wanted.casefold())
        return float(answer == wanted)


class Contains(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 if the reference occurs in the response as a word or words of its own; else 0."""

    ignore_case: bool = True
    """Capital and small letters are the same."""

    def __call__(self, prompt: Prompt, response: str) -> float:
        """Score a response."""
        wanted = prompt.answer.strip()
        if not wanted:
            return 0.0
        flags = re.IGNORECASE if self.ignore_case else 0
        return float(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", response, flags) is not None)


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 if the last number (behind the marker) is the last number of the reference; else 0. For GSM8K and the like."""

    marker: str = ""
    """Only what follows the last of these counts, such as `####`. Empty: all of the response."""

    def __call__(self, prompt: Prompt, response: str) -> float:
        """Score a response."""
        answer = final_answer(response, marker=self.marker)
        found = None if answer is None else last_number(answer)
        return float(found is not None and found == last_number(prompt.answer))
