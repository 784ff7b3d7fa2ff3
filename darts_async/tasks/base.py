"""The contract between a task and the rest: prompts with stable ids, and a verifier.

A task is pure data and pure functions. It must never import torch, an engine, asyncio or sockets, because the
allocator and the reward processes load it. Invariants every task keeps:

- `prompt_id` depends on the prompt alone, so statistics and ledgers of different runs can be joined on it;
- the training and the held-out prompts share no id;
- the same parameters give the same prompts in the same order, on every machine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, Self

import msgspec

__all__ = ["Prompt", "Response", "Task"]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One question with its reference answer."""

    prompt_id: str
    """Stable across runs, seeds and machines; safe in file names."""
    stratum: str
    """Difficulty class: what the statistics of an unseen prompt shrink to."""
    content: str
    """The text of the user message, before the chat template."""
    answer: str
    """What the verifier compares a response with; empty where there is none."""
    before: tuple[tuple[str, str], ...] = ()
    """(role, text) of the messages before it: a system prompt, examples."""
    extra: dict[str, Any] = {}
    """Further columns of its row, for reward functions."""


class Response(str):
    """The text of a response, which also knows how many tokens it was made of."""

    __slots__ = ("num_tokens",)

    num_tokens: int
    """The end of the response included."""

    def __new__(cls, text: str, num_tokens: int = 0) -> Self:
        """Wrap a text."""
        made = super().__new__(cls, text)
        made.num_tokens = num_tokens
        return made


class Task(Protocol):
    """A finite set of prompts and the rule that scores a response.

    A task may also have `find(prompt_id) -> Prompt` (raises `KeyError`), so that whoever scores need not hold all
    prompts; `prepare()`, which loads what scoring needs; `has_reward`, False where only reward functions can score; and
    `notes`: sentences about its data that the user should see.
    """

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...

    def train_prompts(self) -> Sequence[Prompt]:
        """The prompts that a run trains on, in a fixed order (the allocator shuffles)."""
        ...

    def held_out_prompts(self) -> Sequence[Prompt]:
        """The prompts of the evaluation; none of them is trained on."""
        ...

    def reward(self, prompt: Prompt, response: str) -> float | Awaitable[float]:
        """Score a response. Must return for any text whatever; the built-in tasks never raise."""
        ...
