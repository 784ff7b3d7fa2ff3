"""From a user message to token ids and back, without transformers.

Importing transformers takes seconds and pulls torch; the allocator and the reward processes need neither.
This module reads the same files with the `tokenizers` library and renders the chat template in the same
kind of sandbox. Invariant: `render` gives exactly the ids of transformers' `apply_chat_template` for a
single user message with the generation prompt added (tested against it).

Must never execute anything from the folder outside the template sandbox.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from darts_async.errors import ConfigError
from darts_async.tasks.chat_files import TEMPLATE_FILE, given_template, read_chat_files

__all__ = ["ChatTokenizer"]

_MARK = "the-answer-itself"
_BATCH = 1024


class ChatTokenizer:
    """Tokenizer and chat template of one model folder."""

    def __init__(self, folder: Path | str, chat_template: str = "") -> None:
        """Load the folder's text files. Raises ConfigError on `model.path` when they do not suffice.

        chat_template: as `model.chat_template`. A folder without a template of its own serves whoever only decodes.
        """
        self.folder = Path(folder)
        files = read_chat_files(self.folder)
        given = given_template(chat_template)
        self._files = files if given is None else replace(files, template=given)
        try:
            self._tokenizer = Tokenizer.from_str(self._files.tokenizer_json)
        except Exception as error:  # the library raises bare Exception for any fault in the file
            raise self._refused(f"tokenizer.json cannot be used ({error})", "Save the tokenizer again.") from error
        # Settings left over from training would cut prompts silently or fill them up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template: jinja2.Template | None = None
        try:
            if self._files.template is not None:
                self._template = _environment().from_string(self._files.template)
        except jinja2.TemplateError as error:
            raise self._refused(f"the chat template does not parse ({error})", "Correct it.") from error
        self.eos_token_ids = self._find_eos()

    def render(self, content: str, before: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Token ids of one user message, up to where the assistant's answer begins. Raises ConfigError.

        before: (role, text) of the messages before it.
        """
        return self.encode(self._text(content, before))

    def lengths(self, prompts: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> Iterator[int]:
        """Lengths of what `render` gives for many messages, in tokens; uses every core."""
        texts = (self._text(content, before) for content, before in prompts)
        while batch := list(itertools.islice(texts, _BATCH)):
            for encoding in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield len(encoding)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as it stands."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _text(self, content: str, before: Sequence[tuple[str, str]]) -> str:
        if self._template is None:
            raise self._refused(
                f"the folder has no chat template (neither {TEMPLATE_FILE} nor one in tokenizer_config.json)",
                f"Take the chat version of the model; or copy the {TEMPLATE_FILE} that it was trained with into the "
                'folder; or set model.chat_template to such a file, or to "plain" for a base model, which then sees '
                "the prompt as it is.",
            )
        try:
            return self._template.render(
                messages=[{"role": role, "content": text} for role, text in (*before, ("user", content))],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._files.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            if not before:
                raise self._refused(
                    f"the chat template fails on a single user message ({error})", "Correct it."
                ) from error
            raise self._refused(
                f"the chat template fails on messages of {', '.join(role for role, _ in before)} and user ({error})",
                "Correct it, or leave system prompts and earlier turns out of the task (task.params.system).",
            ) from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a response, special tokens left out."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def round_trip(self, text: str) -> str:
        """What is left of a text that was tokenised and read back."""
        return self._tokenizer.decode(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @property
    def vocab_size(self) -> int:
        """Tokens of the tokenizer, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def named_eos_id(self) -> int | None:
        """Id of the tokenizer's own `eos_token`; None where it names none, or one that it does not have."""
        name = self._files.special_tokens.get("eos_token")
        return None if name is None else self._tokenizer.token_to_id(name)

    def end_of_turn(self) -> int | None:
        """The token that the template puts behind an assistant's answer: what the model has learned to end with.

        None when the template has nothing there, or does not take a conversation that ends with an answer.
        """
        if self._template is None:
            return None
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _MARK}]
        try:
            text = self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=False, **self._files.special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError):
            return None
        rest = text.rpartition(_MARK)[2].lstrip()
        ids = self._tokenizer.encode(rest, add_special_tokens=False).ids
        return ids[0] if ids else None

    def token(self, token_id: int) -> str:
        """A token as people know it; empty when there is none of that id."""
        return self._tokenizer.id_to_token(token_id) or ""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over everything that decides how this tokenizer renders, decodes and ends."""
        files = self._files
        parts = [files.tokenizer_json, files.template, files.special_tokens, sorted(self.eos_token_ids)]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()

    def _find_eos(self) -> frozenset[int]:
        """The tokenizer's own end and those of the generation settings: an engine stops at any of them."""
        own = self._files.special_tokens.get("eos_token")
        own_id = None if own is None else self._tokenizer.token_to_id(own)
        ids = self._files.eos_token_ids | (frozenset() if own_id is None else {own_id})
        if not ids:
            raise self._refused(
                "no end-of-text token is named (eos_token, or eos_token_id in generation_config.json)",
                "Add it: without one every response would run into its cap.",
            )
        return ids

    def _refused(self, rule: str, fix: str) -> ConfigError:
        return ConfigError(key="model.path", value=str(self.folder), rule=rule, fix=fix)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text for training elsewhere; here its body is simply kept."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that published chat templates are written for (transformers' conventions)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # The built-in filter escapes HTML characters, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005 - the wall clock, as transformers does
