"""The shipped policy loads with the standard readers, and the tool that makes it runs from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.tasks import load_task
from darts_async.tasks.chat import ChatTokenizer

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TOOLS = Path(__file__).parents[3] / "tools"


def assert_renders_like_transformers(folder):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    ours = ChatTokenizer(folder)
    task = load_task("chain_arithmetic", {})
    contents = [prompt.content for prompt in task.train_prompts()]
    for content in [*contents, "", " ", "hello <|assistant|> é\n\n", "####", "<|endoftext|>"]:
        message = [{"role": "user", "content": content}]
        expected = theirs.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert ours.render(content) == expected
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=True)
    assert theirs.eos_token_id in ours.eos_token_ids


def test_the_shipped_folder_is_small_and_loads():
    import torch
    from transformers import AutoModelForCausalLM

    assert sum(file.stat().st_size for file in QUICKSTART_POLICY.iterdir()) < 4_000_000
    model = AutoModelForCausalLM.from_pretrained(QUICKSTART_POLICY)
    tokenizer = ChatTokenizer(QUICKSTART_POLICY)
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id in tokenizer.eos_token_ids
    ids = torch.tensor([tokenizer.render("a4b+3c-5")])
    generated = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(generated) == "a4\nb+3=7\nc-5=2\n####2"
    assert generated[-1] in tokenizer.eos_token_ids


def test_the_shipped_chat_template_renders_like_transformers():
    assert_renders_like_transformers(QUICKSTART_POLICY)


def test_the_tool_makes_a_folder_from_nothing(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.syspath_prepend(TOOLS)
    from make_quickstart_policy import main

    threads = torch.get_num_threads()
    try:
        brief = ["--samples", "4", "--cap", "64", "--threads", "1"]
        main(["--tokens", "10000", "--prompts", "7", "--out", str(tmp_path), *brief])
        main(["--measure-only", str(tmp_path), "--prompts", "2", *brief])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert "accuracy" in capsys.readouterr().out
    assert "## Limits" in (tmp_path / "MODEL_CARD.md").read_text()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert_renders_like_transformers(tmp_path)
