"""The tokenizer: byte-level BPE in which every digit, sign, `=` and newline is a token of its own.

Only the few words of the demonstrations are merged. Four special tokens make up the chat template. The
folder it writes is the standard one, so that every reader of such folders loads it without code of ours.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from quickstart_policy.demonstrations import demonstrate

__all__ = ["ASSISTANT", "END", "PAD", "USER", "build_tokenizer", "write_tokenizer"]

PAD: Final = "<|pad|>"
END: Final = "<|endoftext|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"

VOCAB_SIZE: Final = 271
"""256 bytes, 4 special tokens and the 11 merges of `####`, `check`, `wait` and `hmm`."""

CHAT_TEMPLATE: Final = """\
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|user|>' + message.content }}
    {%- elif message.role == 'assistant' %}
        {{- '<|assistant|>' + message.content + '<|endoftext|>' }}
    {%- else %}
        {{- raise_exception('the quickstart policy knows only the roles user and assistant') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def build_tokenizer(seed: int) -> Tokenizer:
    """Train the tokenizer on 2,000 demonstrations."""
    rng = random.Random(f"{seed}/tokenizer")
    demonstrations = [demonstrate(rng, rng.randint(2, 8)) for _ in range(2000)]
    tokenizer = Tokenizer(models.BPE())
    isolate = pre_tokenizers.Split(Regex(r"[0-9]|[-+=\n]"), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([isolate, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((d.response for d in demonstrations), trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        # The name that both the 4.x and the 5.x line of transformers know.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
