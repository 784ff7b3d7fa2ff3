"""What `doctor` finds out from the model's and the task's files alone: tokenizer, ends of responses, lengths, sampling.

Every function returns what it found, good or bad; none raises for a fault it is there to find.
"""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from darts_async.runtime.job_events import Check
from darts_async.tasks import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from darts_async.config import Config
    from darts_async.tasks.chat import ChatTokenizer
    from darts_async.tasks.prompt_set import PromptSet

__all__ = ["check_eos", "check_lengths", "check_round_trip", "check_sampling", "check_vocabulary", "token_checks"]

_MAX_PROMPTS: Final = 256
"""Prompts that are tokenised and read back."""
_MAX_RENDERED: Final = 4096
"""Prompts of a set whose tokens are looked at: there may be a million."""


def token_checks(config: Config, chat: ChatTokenizer, prompts: PromptSet) -> list[Check]:
    """All of them, in the order a person reads them."""
    task = load_task(config.task.name, config.task.params)
    texts = [prompt.content for prompt in task.held_out_prompts()[:_MAX_PROMPTS]]
    texts += [prompt.content for prompt in task.train_prompts()[: _MAX_PROMPTS - len(texts)]]
    return [
        check_round_trip(chat, texts),
        check_vocabulary(chat, prompts),
        check_eos(chat),
        check_lengths(config, chat.folder, prompts),
        check_sampling(config),
    ]


def check_round_trip(chat: ChatTokenizer, texts: Sequence[str]) -> Check:
    """Whether prompts survive being tokenised and read back."""
    name = "tokenizer round trip"
    lost: list[tuple[str, str]] = []
    changed: list[tuple[str, str]] = []
    for text in texts:
        back = chat.round_trip(text)
        if back != text:
            (changed if _folded(back) == _folded(text) else lost).append((text, back))
    if lost:
        before, after = lost[0]
        return Check(
            name,
            "fail",
            f"{len(lost)} of {len(texts)} prompts are not what they were: {_short(before)} became {_short(after)}",
            "The tokenizer has no tokens for what the task writes: check that tokenizer.json belongs to the model.",
        )
    if changed:
        before, after = changed[0]
        return Check(
            name,
            "warn",
            f"{len(changed)} of {len(texts)} prompts differ in spaces or Unicode form: {_short(before)} became "
            f"{_short(after)}",
            "Harmless unless the verifier compares exactly such characters.",
        )
    return Check(name, "pass", f"{len(texts)} prompts unchanged")


def check_vocabulary(chat: ChatTokenizer, prompts: PromptSet) -> Check:
    """Whether every token that can occur has a row in the model's embedding."""
    name = "vocabulary"
    rows = _model_value(chat.folder, "vocab_size")
    if not isinstance(rows, int):
        return Check(name, "warn", "config.json names no vocab_size", "Save the model again with `save_pretrained`.")
    some = (*prompts.train[:_MAX_RENDERED], *prompts.held_out[:_MAX_RENDERED])
    largest = max((int(p.tokens.max()) for p in some if p.tokens.size), default=0)
    figures = f"tokenizer {chat.vocab_size}, model {rows}, largest id in the prompts {largest}"
    worst = max(largest, *chat.eos_token_ids)
    if worst >= rows or chat.vocab_size > rows:
        return Check(
            name,
            "fail",
            figures,
            "The tokenizer has tokens that the model does not: use the model's own tokenizer, or resize its embedding "
            "(`resize_token_embeddings`) and save it again.",
        )
    return Check(name, "pass", figures)


def check_eos(chat: ChatTokenizer) -> Check:
    """Whether tokenizer, settings and chat template agree on how a response ends.

    The engine stops at the tokenizer's own EOS and at those of generation_config.json (of config.json where that names
    none). A model that was taught another end runs every response into the cap.
    """
    name = "end of responses"
    own, end = chat.named_eos_id, chat.end_of_turn()
    generation = _ids(_value(chat.folder, "generation_config.json", "eos_token_id"))
    model = _ids(_model_value(chat.folder, "eos_token_id"))
    figures = (
        f"tokenizer {_shown(chat, own)}, generation_config.json {_listed(chat, generation)}, config.json "
        f"{_listed(chat, model)}, chat template ends a turn with {_shown(chat, end)}"
    )
    if end is not None and end not in chat.eos_token_ids:
        return Check(
            name,
            "fail",
            figures,
            f"The engine does not stop at {_shown(chat, end)}, so responses run into the cap: add {end} to "
            "eos_token_id in generation_config.json.",
        )
    if own is not None and generation and own not in generation:
        return Check(
            name,
            "fail",
            figures,
            f"tokenizer_config.json and generation_config.json name different ends, one of which is wrong: put {own} "
            "into eos_token_id of generation_config.json, or mend eos_token of tokenizer_config.json.",
        )
    if model and not model & chat.eos_token_ids:
        return Check(
            name,
            "warn",
            figures,
            "config.json names another end; engines that read it alone would stop there. Make its eos_token_id the "
            "same.",
        )
    if end is None:
        return Check(
            name,
            "warn",
            figures,
            "The chat template shows no end of an answer: check by hand that the model ends with one of these.",
        )
    return Check(name, "pass", figures)


def check_lengths(config: Config, folder: Path, prompts: PromptSet) -> Check:
    """Whether prompts and responses fit the model's positions, and how many prompts are too long."""
    name = "lengths"
    limit = _model_value(folder, "max_position_embeddings")
    settings = config.model
    total = settings.max_prompt_tokens + settings.max_response_tokens
    num = len(prompts.train) + len(prompts.held_out) + prompts.num_skipped
    figures = f"{settings.max_prompt_tokens} + {settings.max_response_tokens} tokens of {limit or 'unknown'} positions"
    figures += f"; {prompts.num_skipped} of {num} prompts too long"
    if isinstance(limit, int) and total > limit:
        most = limit - settings.max_prompt_tokens
        return Check(name, "fail", figures, f"Set model.max_response_tokens to at most {most}.")
    if 2 * prompts.num_skipped > num:
        return Check(name, "warn", figures, "Most prompts are skipped: raise model.max_prompt_tokens.")
    return Check(name, "pass", figures)


def check_sampling(config: Config) -> Check:
    """Whether the engine draws from the whole distribution that the learner scores."""
    name = "sampling"
    sampling, correction = config.sampling, config.learner.correction
    used = [correction] if isinstance(correction, str) else correction
    figures = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, top_k {sampling.top_k}"
    if sampling.top_p == 1.0 and sampling.top_k in {-1, 0}:
        return Check(name, "pass", f"{figures}: full support")
    remedy = "Behaviour log-probs are renormalised over what is left: set sampling.top_p to 1 and sampling.top_k to -1"
    if set(used) <= {"none"}:
        return Check(name, "fail", figures, f"{remedy}, or choose a correction.")
    return Check(name, "warn", f"{figures}, corrected by {' and '.join(used)}", f"{remedy}, to have no bias at all.")


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _value(folder: Path, file: str, key: str) -> Any:
    try:
        return json.loads((folder / file).read_text("utf-8")).get(key)
    except (OSError, ValueError, AttributeError):
        return None


def _model_value(folder: Path, key: str) -> Any:
    """From config.json; models with several parts keep the language model's under `text_config`."""
    value = _value(folder, "config.json", key)
    if value is None:
        text = _value(folder, "config.json", "text_config")
        value = text.get(key) if isinstance(text, dict) else None
    return value


def _ids(value: Any) -> frozenset[int]:
    if isinstance(value, int):
        return frozenset({value})
    return frozenset(v for v in value if isinstance(v, int)) if isinstance(value, list) else frozenset()


def _shown(chat: ChatTokenizer, token_id: int | None) -> str:
    return "nothing" if token_id is None else f"{token_id} ({chat.token(token_id)})"


def _listed(chat: ChatTokenizer, ids: frozenset[int]) -> str:
    return ", ".join(_shown(chat, token_id) for token_id in sorted(ids)) or "nothing"
