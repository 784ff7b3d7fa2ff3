"""Rewards for how a response is written: its form, its length, its repetitions. None of them knows the answer."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal

import msgspec

from darts_async.errors import ConfigError
from darts_async.tasks.base import Prompt, Response

__all__ = ["Format", "Length", "Repetition", "ThinkFormat"]

_THINK: Final = re.compile(r"\s*<think>(?P<thought>.*?)</think>(?P<answer>.*)", re.DOTALL)


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 if the response matches a regular expression, else 0. `.` matches line ends, too."""

    pattern: str
    """Regular expression (Python's). One that takes exponential time runs into `reward.timeout_s`."""
    match: Literal["whole", "anywhere"] = "anywhere"
    """Whether the response must match from its beginning to its end."""

    def __post_init__(self) -> None:
        try:
            _compiled(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(
                "reward.functions.params.pattern", self.pattern, f"is no regular expression ({error})", "Mend it."
            ) from None

    def __call__(self, _: Prompt, response: str) -> float:
        """Score a response."""
        pattern = _compiled(self.pattern)
        found = pattern.fullmatch(response) if self.match == "whole" else pattern.search(response)
        return float(found is not None)


class ThinkFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 for one `<think>...</think>` followed by an answer, else 0."""

    prefilled: bool = False
    """The chat template has written `<think>` already: a response begins within it."""

    def __call__(self, _: Prompt, response: str) -> float:
        """Score a response."""
        text = "<think>" + response if self.prefilled else response
        found = _THINK.fullmatch(text)
        if found is None or not found["answer"].strip():
            return 0.0
        return float("<think>" not in found["thought"] and "think>" not in found["answer"])


class Length(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How short a response is: 1 up to `target` tokens, falling linearly to 0 at `limit`. (Beside a weight below 0: a
    penalty for the concise.)"""

    target: int
    """Tokens up to which nothing is lost."""
    limit: int
    """Tokens from which nothing is left."""

    def __post_init__(self) -> None:
        if not 0 <= self.target < self.limit:
            raise ConfigError(
                "reward.functions.params.limit",
                self.limit,
                f"must be more than the target, {self.target}, which must not be negative",
                "Raise the limit.",
            )

    def __call__(self, _: Prompt, response: str) -> float:
        """Score a response."""
        num = response.num_tokens if isinstance(response, Response) else len(response.split())
        return min(max((self.limit - num) / (self.limit - self.target), 0.0), 1.0)


class Repetition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """-1 times the share of word sequences that were there before: 0 for a text that never repeats itself."""

    words: int = 3
    """Length of the sequences."""

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ConfigError("reward.functions.params.words", self.words, "must be 1 or more", "Raise it.")

    def __call__(self, _: Prompt, response: str) -> float:
        """Score a response."""
        words = response.casefold().split()
        num = len(words) - self.words + 1
        if num < 1:
            return 0.0
        return len({tuple(words[i : i + self.words]) for i in range(num)}) / num - 1.0


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)
