"""From rows to prompts: what is read, and why a row is refused."""

from __future__ import annotations

from typing import Any

import pytest

from darts_async.errors import ConfigError
from darts_async.tasks.columns import BadRow, Columns, parse_template


def test_a_row_with_everything() -> None:
    columns = Columns(
        prompt="q",
        answer="reward.truth",
        id="uid",
        stratum="level",
        keep=("lang",),
        system="Be brief.",
        template=parse_template("key", "{prompt} {{in {lang}}}"),
    )
    row = {"q": "2+2?", "reward": {"truth": 4}, "uid": "x/1", "level": 3, "lang": "en", "other": object()}
    item = columns.item(row)
    assert (item.content, item.answer, item.name, item.stratum) == ("2+2? {in en}", "4", "x/1", "3")
    assert item.before == (("system", "Be brief."),)
    assert item.extra == {"lang": "en"}


def test_a_conversation_keeps_its_own_system_prompt_and_examples() -> None:
    turns = [("system", "S"), ("user", "1+1"), ("assistant", "2"), ("user", "2+2")]
    row = {"prompt": [{"role": role, "content": text} for role, text in turns], "answer": "4"}
    item = Columns(system="other").item(row)
    assert (item.before, item.content) == (tuple(turns[:3]), "2+2")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a"}, "no column `answer` \\(it has prompt\\)"),
        ({"prompt": " ", "answer": "1"}, "column `prompt` is empty"),
        ({"prompt": None, "answer": "1"}, "holds nothing"),
        ({"prompt": "a", "answer": None}, "column `answer` holds nothing"),
        ({"prompt": "a", "answer": [1]}, "column `answer` holds a list"),
        ({"prompt": "a", "answer": True}, "column `answer` holds a bool"),
        ({"prompt": [], "answer": "1"}, "not a text or a conversation"),
        ({"prompt": [{"role": "tool", "content": "x"}], "answer": "1"}, "a turn needs `role`"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "answer": "1"}, "does not end with a message of the user"),
        ({"prompt": "\ud800", "answer": "1"}, "half a surrogate pair"),
        ({"prompt": "a" * (1 << 20) + "a", "answer": "1"}, "at most"),
    ],
)
def test_why_a_row_is_refused(row: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRow, match=why):
        Columns().item(row)


@pytest.mark.parametrize("template", ["no column", "{", "{}", "{prompt!r}", "{prompt:>9}", "{prompt"])
def test_templates_that_are_none(template: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_template("task.params.template", template)
    assert caught.value.key == "task.params.template"
