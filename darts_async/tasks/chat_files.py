"""Reading the text files of a Hugging Face model folder that matter to a chat: template, special tokens,
ends.

Reads small JSON and text files only, never weights. Whatever is missing or broken becomes a ConfigError on
`model.path` that names the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from darts_async.errors import ConfigError

__all__ = ["TEMPLATE_FILE", "ChatFiles", "given_template", "read_chat_files"]

TEMPLATE_FILE: Final = "chat_template.jinja"
PLAIN: Final = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""`model.chat_template = "plain"`: what is said, without any marks of who says it."""

NAMED_TOKENS: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class ChatFiles:
    """What the folder says, before a tokenizer is built from it."""

    tokenizer_json: str
    template: str | None
    """None where the folder has none."""
    special_tokens: dict[str, str]
    """Named special tokens, such as `eos_token`, which templates refer to."""
    eos_token_ids: frozenset[int]
    """The ends that the generation settings list; the tokenizer's own end is not in here."""


def read_chat_files(folder: Path) -> ChatFiles:
    """Read the folder. Raises ConfigError on `model.path`."""
    if not folder.is_dir():
        raise _refuse(folder, "there is no such folder", "Give the path of a Hugging Face model folder.")
    if not (folder / "tokenizer.json").is_file():
        raise _refuse(
            folder,
            "the folder has no tokenizer.json",
            "Save the model's fast tokenizer into it: "
            "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` in transformers converts older formats.",
        )
    config = _read_json(folder / "tokenizer_config.json")
    return ChatFiles(
        tokenizer_json=_read_text(folder / "tokenizer.json"),
        template=_template(folder, config),
        special_tokens=_special_tokens(_read_json(folder / "special_tokens_map.json") | config),
        eos_token_ids=_eos_token_ids(folder),
    )


def given_template(value: str) -> str | None:
    """Return the template that `model.chat_template` names; None for the folder's own. Raises `ConfigError`."""
    if not value:
        return None
    if value == "plain":
        return PLAIN
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise ConfigError(
            key="model.chat_template",
            value=value,
            rule=f"the file cannot be read ({reason})",
            fix="Give a file with a Jinja template, or `plain`; leave it empty for the model folder's own.",
        ) from error


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / TEMPLATE_FILE).is_file():
        return _read_text(folder / TEMPLATE_FILE)
    template = config.get("chat_template")
    if template is None:  # what processors of models with several parts write
        template = _read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):  # several named templates
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens = {}
    for name in NAMED_TOKENS:
        token = config.get(name)
        if isinstance(token, dict):  # a token with its stripping flags
            token = token.get("content")
        if isinstance(token, str):
            tokens[name] = token
    return tokens


def _eos_token_ids(folder: Path) -> frozenset[int]:
    """From generation_config.json; from config.json only where that says nothing, as inference engines do."""
    for name in ("generation_config.json", "config.json"):
        ids = _read_json(folder / name).get("eos_token_id")
        if isinstance(ids, int):
            return frozenset({ids})
        if isinstance(ids, list) and ids and all(isinstance(i, int) for i in ids):
            return frozenset(ids)
    return frozenset()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise _refuse(path.parent, f"{path.name} is not JSON ({error})", "Save the model again.") from error
    if not isinstance(content, dict):
        raise _refuse(path.parent, f"{path.name} does not hold a JSON object", "Save the model again.")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _refuse(path.parent, f"{path.name} cannot be read ({error})", "Save the model again.") from error


def _refuse(folder: Path, rule: str, fix: str) -> ConfigError:
    return ConfigError(key="model.path", value=str(folder), rule=rule, fix=fix)
