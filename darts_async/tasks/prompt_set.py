"""The prompts of a run: a task's prompts, rendered to tokens, without those that are too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from darts_async.config.paths import model_folder
from darts_async.errors import ConfigError
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darts_async.config import Config
    from darts_async.tasks.base import Prompt


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt as the engine gets it."""

    prompt_id: str
    stratum: str
    tokens: np.ndarray
    """int32 [prompt_len], chat template included."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """What a run draws its prompts from."""

    train: tuple[TokenizedPrompt, ...]
    held_out: tuple[TokenizedPrompt, ...]
    num_skipped: int
    """Prompts left out because they exceed `model.max_prompt_tokens`."""


def load_prompts(config: Config) -> PromptSet:
    """Load, render and tokenise the prompts of a config's task.

    Raises `ConfigError` for an unknown task or model folder, ids that are not unique, or when every training prompt
    is too long.
    """
    task = load_task(config.task.name, config.task.params)
    chat = ChatTokenizer(model_folder(config))
    limit = config.model.max_prompt_tokens
    train, longest = _render(task.train_prompts(), chat, limit)
    wanted = config.eval.prompts
    held_out_prompts = list(task.held_out_prompts())[:wanted] if wanted else []
    held_out, _ = _render(held_out_prompts, chat, limit)
    total = len(task.train_prompts()) + len(held_out_prompts)
    if not train:
        raise ConfigError(
            "model.max_prompt_tokens",
            limit,
            f"every training prompt of task `{config.task.name}` is longer (the shortest kept would need more)",
            f"Raise it to {longest} to keep all of them.",
        )
    ids = [prompt.prompt_id for prompt in (*train, *held_out)]
    if len(set(ids)) != len(ids):
        raise ConfigError("task.name", config.task.name, "prompt ids must be unique", "Mend the task's ids.")
    return PromptSet(train, held_out, total - len(train) - len(held_out))


def _render(prompts: Sequence[Prompt], chat: ChatTokenizer, limit: int) -> tuple[tuple[TokenizedPrompt, ...], int]:
    """Render prompts; return those within the limit, and the length of the longest of all."""
    rendered = [(prompt, chat.render(prompt.content)) for prompt in prompts]
    kept = tuple(
        TokenizedPrompt(prompt.prompt_id, prompt.stratum, np.asarray(tokens, dtype=np.int32))
        for prompt, tokens in rendered
        if len(tokens) <= limit
    )
    return kept, max((len(tokens) for _, tokens in rendered), default=0)
