"""The prompts of a run: a task's prompts, rendered to tokens, without those that are too long.

A few thousand are rendered at once. Of larger sets only the lengths are found out, and remembered with the book of the
prompts; each prompt is rendered when it is dispatched, which costs some tens of microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, overload

import numpy as np

from darts_async.config.paths import model_folder
from darts_async.errors import ConfigError
from darts_async.tasks import load_task
from darts_async.tasks.book import BookPrompts
from darts_async.tasks.chat import ChatTokenizer

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.tasks.base import Prompt, Task

__all__ = ["PromptSet", "RenderedPrompts", "TokenizedPrompt", "load_prompts"]

RENDERED_AT_ONCE: Final = 4096
"""Prompts of a book up to which all are rendered at the start: a quarter of a second."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt as the engine gets it."""

    prompt_id: str
    stratum: str
    tokens: np.ndarray
    """int32 [prompt_len], chat template included."""


class RenderedPrompts(Sequence[TokenizedPrompt]):
    """Prompts of a book that are short enough, rendered when they are asked for."""

    def __init__(self, prompts: BookPrompts, chat: ChatTokenizer) -> None:
        self._prompts = prompts
        self._chat = chat

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> TokenizedPrompt: ...

    @overload
    def __getitem__(self, index: slice) -> RenderedPrompts: ...

    def __getitem__(self, index: int | slice) -> TokenizedPrompt | RenderedPrompts:
        if isinstance(index, slice):
            return RenderedPrompts(self._prompts[index], self._chat)
        return _tokenized(self._prompts[index], self._chat)

    def key(self, index: int) -> tuple[str, str]:
        """Id and stratum of a prompt, which need no rendering."""
        return self._prompts.key(index)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """What a run draws its prompts from."""

    train: Sequence[TokenizedPrompt]
    held_out: Sequence[TokenizedPrompt]
    num_skipped: int
    """Prompts left out because they exceed `model.max_prompt_tokens`."""
    notes: tuple[str, ...] = ()
    """What the user should know of the data: rows that were skipped, prompts that came twice."""

    def train_key(self, index: int) -> tuple[str, str]:
        """Id and stratum of a training prompt; cheap."""
        if isinstance(self.train, RenderedPrompts):
            return self.train.key(index)
        prompt = self.train[index]
        return prompt.prompt_id, prompt.stratum


def load_prompts(config: Config, task: Task | None = None) -> PromptSet:
    """Load, render and tokenise the prompts of a config's task; `task`: where it is loaded already.

    Raises `ConfigError` for an unknown task or model folder, data that cannot be used, ids that are not unique, or
    when every training prompt is too long.
    """
    if task is None:
        task = load_task(config.task.name, config.task.params)
    chat = ChatTokenizer(model_folder(config), config.model.chat_template)
    limit = config.model.max_prompt_tokens
    wanted = config.eval.prompts
    all_train, some_held_out = task.train_prompts(), task.held_out_prompts()[:wanted]
    train, longest = _render(all_train, chat, limit)
    held_out, _ = _render(some_held_out, chat, limit)
    if not len(all_train):
        raise ConfigError("task.name", config.task.name, "has no training prompts", "Give it some, or hold out fewer.")
    if not len(train):
        raise ConfigError(
            "model.max_prompt_tokens",
            limit,
            f"every training prompt of task `{config.task.name}` is longer (the shortest kept would need more)",
            f"Raise it to {longest} to keep all of them.",
        )
    if not isinstance(all_train, BookPrompts):  # the ids of a book are unique
        ids = [prompt.prompt_id for prompt in (*train, *held_out)]
        if len(set(ids)) != len(ids):
            raise ConfigError("task.name", config.task.name, "prompt ids must be unique", "Mend the task's ids.")
    num_skipped = len(all_train) + len(some_held_out) - len(train) - len(held_out)
    return PromptSet(train, held_out, num_skipped, tuple(getattr(task, "notes", ())))


def _render(prompts: Sequence[Prompt], chat: ChatTokenizer, limit: int) -> tuple[Sequence[TokenizedPrompt], int]:
    """Render prompts, now or later; return those within the limit, and the length of the longest of all."""
    if isinstance(prompts, BookPrompts) and len(prompts) > RENDERED_AT_ONCE:
        return _render_later(prompts, chat, limit)
    rendered = [_tokenized(prompt, chat) for prompt in prompts]
    kept = tuple(prompt for prompt in rendered if prompt.tokens.size <= limit)
    return kept, max((prompt.tokens.size for prompt in rendered), default=0)


def _render_later(prompts: BookPrompts, chat: ChatTokenizer, limit: int) -> tuple[Sequence[TokenizedPrompt], int]:
    def texts() -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
        for number in prompts.numbers.tolist():
            record = prompts.book.record(number)
            yield record.content, record.before

    def count() -> np.ndarray:
        return np.fromiter(chat.lengths(texts()), dtype=np.int32, count=len(prompts))

    which = f"{int(prompts.numbers[0])}-{int(prompts.numbers[-1])}-{len(prompts)}"
    lengths = prompts.book.remembered(f"lengths-{chat.fingerprint}-{which}", count)
    short = BookPrompts(prompts.book, prompts.numbers[lengths <= limit])
    return RenderedPrompts(short, chat), int(lengths.max())


def _tokenized(prompt: Prompt, chat: ChatTokenizer) -> TokenizedPrompt:
    tokens = np.asarray(chat.render(prompt.content, prompt.before), dtype=np.int32)
    return TokenizedPrompt(prompt.prompt_id, prompt.stratum, tokens)
