"""Faults planted into a copy of the quickstart policy's files, and the words the doctor finds for them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from darts_async.config import Config, load_config
from darts_async.config.paths import QUICKSTART_POLICY
from darts_async.launcher.token_checks import (
    check_eos,
    check_lengths,
    check_round_trip,
    check_sampling,
    check_vocabulary,
    token_checks,
)
from darts_async.tasks.chat import ChatTokenizer
from darts_async.tasks.prompt_set import PromptSet, TokenizedPrompt, load_prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(QUICKSTART_POLICY, tmp_path / "policy"))


def _set(folder: Path, file: str, **values: object) -> ChatTokenizer:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return ChatTokenizer(folder)


def _prompts(*tokens: int, skipped: int = 0) -> PromptSet:
    prompt = TokenizedPrompt("p", "s", np.array(tokens or (5,), np.int32))
    return PromptSet((prompt,), (), skipped)


def test_the_quickstart_passes_all():
    config = load_config(None)
    checks = token_checks(config, ChatTokenizer(QUICKSTART_POLICY), load_prompts(config))
    assert [check.status for check in checks] == ["pass"] * 5
    assert all(check.measured and not check.remedy for check in checks)


def test_another_end_in_the_generation_settings(folder: Path):
    check = check_eos(_set(folder, "generation_config.json", eos_token_id=5))
    assert check.status == "fail"
    assert "tokenizer 1 (<|endoftext|>), generation_config.json 5" in check.measured
    assert "put 1 into eos_token_id of generation_config.json" in check.remedy


def test_another_end_in_both_is_found_by_the_chat_template(folder: Path):
    _set(folder, "generation_config.json", eos_token_id=[0])
    check = check_eos(_set(folder, "tokenizer_config.json", eos_token="<|pad|>"))
    assert check.status == "fail"
    assert "chat template ends a turn with 1 (<|endoftext|>)" in check.measured
    assert "does not stop at 1 (<|endoftext|>)" in check.remedy


def test_several_ends_may_be_named(folder: Path):
    assert check_eos(_set(folder, "generation_config.json", eos_token_id=[1, 0])).status == "pass"


def test_another_end_in_the_model_config_is_a_warning(folder: Path):
    check = check_eos(_set(folder, "config.json", eos_token_id=7))
    assert (check.status, "config.json names another end" in check.remedy) == ("warn", True)


def test_a_template_that_shows_no_end_is_a_warning(folder: Path):
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace(" + '<|endoftext|>'", ""))
    check = check_eos(ChatTokenizer(folder))
    assert check.status == "warn" and "chat template ends a turn with nothing" in check.measured


def test_a_vocabulary_that_is_too_small(folder: Path):
    chat = _set(folder, "config.json", vocab_size=200)
    check = check_vocabulary(chat, _prompts(5))
    assert check.status == "fail" and "tokenizer 271, model 200, largest id in the prompts 5" in check.measured
    # Rows that no token has are padding, which many models have.
    assert check_vocabulary(_set(folder, "config.json", vocab_size=384), _prompts(5)).status == "pass"
    assert check_vocabulary(ChatTokenizer(QUICKSTART_POLICY), _prompts(3, 271)).status == "fail"


def test_prompts_that_the_tokenizer_cannot_write():
    chat = ChatTokenizer(QUICKSTART_POLICY)
    assert check_round_trip(chat, ["2+3=?", "7"]).status == "pass"

    class _Lossy:
        def round_trip(self, text: str) -> str:
            return text.replace("7", "") if "7" in text else text.replace(" ", "  ")

    lost = check_round_trip(_Lossy(), ["1+7", "7", "2"])  # type: ignore[arg-type]
    assert lost.status == "fail" and "2 of 3 prompts" in lost.measured and "'1+7' became '1+'" in lost.measured
    spaces = check_round_trip(_Lossy(), ["1 + 1", "2"])  # type: ignore[arg-type]
    assert spaces.status == "warn" and "1 of 2 prompts" in spaces.measured


def test_lengths(folder: Path):
    config = Config.model_validate({"model": {"max_prompt_tokens": 64, "max_response_tokens": 1985}})
    long = check_lengths(config, folder, _prompts())
    assert long.status == "fail" and "at most 1984" in long.remedy
    fits = Config.model_validate({"model": {"max_prompt_tokens": 64, "max_response_tokens": 1984}})
    assert check_lengths(fits, folder, _prompts()).status == "pass"
    assert check_lengths(fits, folder, _prompts(skipped=2)).status == "warn"


@pytest.mark.parametrize(("correction", "status"), [("none", "fail"), ("tis", "warn"), (["tis", "icepop"], "warn")])
def test_truncated_sampling(correction: str | list[str], status: str):
    config = Config.model_validate({"sampling": {"top_p": 0.9}, "learner": {"correction": correction}})
    check = check_sampling(config)
    assert check.status == status and "top_p 0.9" in check.measured and "sampling.top_p to 1" in check.remedy
