"""`--help`: every verb is listed under a heading, and shows an example of itself that parses."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner

from darts_async.cli import cli
from darts_async.cli.root import SECTIONS

_VERBS = sorted(cli.commands)


def _help(*words: str) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="darts-async")
    assert result.exit_code == 0
    return result.output


def test_every_verb_is_listed_once_under_its_heading() -> None:
    lines = _help().splitlines()
    listed = {title: [] for title in SECTIONS}
    title = ""
    for line in lines:
        if line.endswith(":") and not line.startswith(" "):
            title = line[:-1]
        elif title in SECTIONS and (match := re.match(r"  ([a-z]+)  +\S", line)):
            listed[title].append(match[1])
    assert listed == {title: [verb.name for verb in verbs] for title, verbs in SECTIONS.items()}
    assert sorted(name for names in listed.values() for name in names) == _VERBS
    assert all(len(line) <= 80 and not (line.startswith("  ") and line.endswith("...")) for line in lines)


@pytest.mark.parametrize("verb", _VERBS)
def test_every_verb_shows_an_example_that_its_own_parser_takes(verb: str) -> None:
    text = re.sub(r"\\\n\s*", "", _help(verb))
    examples = re.findall(rf"^ +(darts-async {verb}\b.*)$", text, re.MULTILINE)
    assert examples, text
    for example in examples:
        words = shlex.split(re.split(r" [>|]", example)[0], comments=True)[2:]
        command = cli.commands[verb]
        own = {name for parameter in command.params for name in parameter.opts}
        keys = command.context_settings.get("ignore_unknown_options", False)
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in own or (keys and "." in word), f"{example}: {word}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from darts_async.cli import cli; cli(['--help'], standalone_mode=False)\n"
        "print('HEAVY', {'torch', 'vllm', 'transformers', 'numpy', 'pydantic', 'zmq', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "HEAVY set()" in done.stdout, done.stdout + done.stderr
