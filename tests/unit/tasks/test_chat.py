"""ChatTokenizer: the same ids as transformers, and clear errors for folders that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.errors import ConfigError
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer

SHIPPED = ChatTokenizer(QUICKSTART_POLICY)


@pytest.fixture
def folder(tmp_path):
    """A minimal model folder: bytes, an end token and a template that uses it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
        "chat_template": (
            "{{ bos_token }}{% for m in messages %}\n  [{{ m.content | trim }}]{{ eos_token }}\n{% endfor %}"
        ),
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def configure(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rendered_text(folder, content="hi"):
    """The rendered prompt with its special tokens, as text."""
    ids = ChatTokenizer(folder).render(content)
    return Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids, skip_special_tokens=False)


def test_shipped_prompts_are_short_and_one_token_a_character():
    task = load_task("chain_arithmetic", {})
    for prompt in (*task.train_prompts(), *task.held_out_prompts()):
        assert len(SHIPPED.render(prompt.content)) == len(prompt.content) + 2 <= 48


@given(st.text())
def test_the_shipped_tokenizer_loses_no_text(text):
    tokenizer = Tokenizer.from_file(str(QUICKSTART_POLICY / "tokenizer.json"))
    special = ("<|pad|>", "<|endoftext|>", "<|user|>", "<|assistant|>")
    if not any(token in text for token in special):
        assert SHIPPED.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_are_left_out_of_the_text():
    (eos,) = SHIPPED.eos_token_ids
    assert SHIPPED.decode([*SHIPPED.render("a4b+3"), eos]) == "a4b+3"
    assert SHIPPED.decode([]) == ""


def test_template_variables_and_whitespace_control(folder):
    assert rendered_text(folder, " hi ") == "<s>\n  [hi]</s>\n".replace("\n  [", "  [")


def test_ends_come_from_the_generation_settings_and_the_tokenizer(folder):
    own = ChatTokenizer(folder).eos_token_ids
    assert own == {257}
    (folder / "config.json").write_text('{"eos_token_id": 3}')
    assert ChatTokenizer(folder).eos_token_ids == {3, 257}
    (folder / "generation_config.json").write_text('{"eos_token_id": [4, 5]}')
    assert ChatTokenizer(folder).eos_token_ids == {4, 5, 257}


def test_the_template_file_goes_before_the_configuration(folder):
    (folder / "chat_template.jinja").write_text("file")
    assert rendered_text(folder) == "file"


def test_named_templates(folder):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    configure(folder, chat_template=named)
    assert rendered_text(folder) == "plain"


def test_what_published_templates_use(folder):
    template = (
        "{%- if tools is none and documents is none and add_generation_prompt %}"
        "{%- for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}{% endfor %}"
        "{{ strftime_now('%%') }}{% endif %}"
    )
    configure(folder, chat_template=template)
    assert rendered_text(folder, "<é>") == '{"role": "user", "content": "<é>"}%'


def test_settings_left_over_from_training_do_not_cut_or_fill_prompts(folder):
    before = ChatTokenizer(folder).render("a long message")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=100)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert ChatTokenizer(folder).render("a long message") == before


def test_the_fingerprint_follows_what_matters(folder):
    before = ChatTokenizer(folder).fingerprint
    assert ChatTokenizer(folder).fingerprint == before
    (folder / "config.json").write_text('{"eos_token_id": 3}')
    changed = ChatTokenizer(folder).fingerprint
    configure(folder, chat_template="other")
    assert len({before, changed, ChatTokenizer(folder).fingerprint}) == 3


@pytest.mark.parametrize(
    ("file", "content", "rule"),
    [
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be used"),
        ("tokenizer.json", b"\xff\xfe", "cannot be read"),
        ("tokenizer_config.json", None, "no end-of-text token"),
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", "[]", "JSON object"),
        ("tokenizer_config.json", '{"chat_template": "x"}', "no end-of-text token"),
        ("chat_template.jinja", "{% if %}", "does not parse"),
        ("generation_config.json", "nope", "not JSON"),
    ],
)
def test_unusable_folders_are_refused_with_the_reason(folder, file, content, rule):
    path = folder / file
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rule) as caught:
        ChatTokenizer(folder)
    assert caught.value.key == "model.path"


def test_a_folder_without_a_template_says_how_to_get_one_and_still_decodes(folder):
    configure(folder, chat_template=None)
    chat = ChatTokenizer(folder)
    assert chat.decode([71, 72]) == ChatTokenizer(folder, "plain").decode([71, 72]) != ""
    assert chat.end_of_turn() is None
    with pytest.raises(ConfigError, match="no chat template") as caught:
        chat.render("hi")
    assert caught.value.key == "model.path"
    assert 'set model.chat_template to such a file, or to "plain"' in caught.value.fix


def test_a_template_of_the_configs_goes_before_the_folders(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "mine.jinja").write_text("<{{ messages[0].content }}>{{ eos_token }}\n")
    for chosen, text in (("plain", "hi there"), (str(folder / "mine.jinja"), "<hi there></s>")):
        ids = ChatTokenizer(folder, chosen).render("hi there")
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    with pytest.raises(ConfigError) as caught:
        ChatTokenizer(folder, str(folder / "none.jinja"))
    assert caught.value.key == "model.chat_template"
    assert len({ChatTokenizer(folder, chosen).fingerprint for chosen in ("", "plain")}) == 2


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        ChatTokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no user') }}", "{{ messages.append(1) }}", "{{ messages[0].role + 1 }}"]
)
def test_a_template_that_fails_is_reported(folder, template):
    configure(folder, chat_template=template)
    with pytest.raises(ConfigError, match="fails on a single user message"):
        ChatTokenizer(folder).render("hi")


def test_tasks_import_nothing_heavy():
    code = (
        "import sys, darts_async.tasks.chat, darts_async.tasks;"
        "print(sorted({'torch', 'transformers', 'vllm', 'zmq'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
