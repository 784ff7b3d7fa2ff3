"""What a twin needs of a policy: how long its responses are, which are correct, and how a response says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

__all__ = ["Drawn", "Policy", "encode", "score"]

_CORRECT: Final = 1
_WRONG: Final = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A response before its cap."""

    length: int
    """Tokens; at least 1."""
    correct: bool


class Policy(Protocol):
    """Who answers prompts in a twin: this file's model, or a recording (`recorded`)."""

    def draw(self, prompt: int, seed: int, version: int) -> Drawn:
        """Return the response that a version of the policy gives to a prompt with a seed."""

    def trained(self, version: int, responses: Iterable[tuple[int, Sequence[int]]]) -> None:
        """A step made `version` from these: prompts with the lengths of the responses that were trained on."""


def encode(drawn: Drawn) -> int:
    """Return the first token of a response, which says whether it is correct."""
    return _CORRECT if drawn.correct else _WRONG


def score(first_token: int) -> float:
    """Return a response's reward by its first token."""
    return 1.0 if first_token == _CORRECT else 0.0
