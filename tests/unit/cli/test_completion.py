"""What a shell is told: the words that may stand there, through the door that the printed scripts use, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete, get_completion_class
from click.testing import CliRunner

from darts_async.cli import cli
from darts_async.config import Config, builtin_configs


def _complete(*words: str) -> list[str]:
    shell = ShellComplete(cli, {}, "darts-async", "_DARTS_ASYNC_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_verbs_and_their_options() -> None:
    assert _complete("re") == [name for name in cli.list_commands(None) if name.startswith("re")]  # type: ignore[arg-type]
    assert "--dry-run" in _complete("up", "--")


@pytest.mark.parametrize("verb", ["up", "tune", "doctor", "chaos", "bench", "eval"])
def test_every_key_of_the_config(verb: str) -> None:
    keys = {f"--{name}.{key}" for name, field in Config.model_fields.items() for key in field.annotation.model_fields}
    assert keys <= set(_complete(verb, "--"))
    assert _complete(verb, "--pipeline.mo") == ["--pipeline.mode"]
    assert _complete(verb, "--nothing.") == []


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--pipeline.mode", ""], ["sync", "stream", "one_step_off", "async"]),
        (["quickstart", "--pipeline.mode", "s"], ["sync", "stream"]),
        (["--run.steps", "3", "--learner.mask_truncated", ""], ["true", "false"]),
        (["--allocation.budget", ""], ["auto"]),
        (["--run.steps", ""], []),
        (["--run.steps=3", "grp"], ["grpo_sync"]),
        (["--run.steps", "3", "darts_"], ["darts_best", "darts_paper"]),
        (["quickstart", ""], []),
        (["./my"], ["./my"]),
    ],
)
def test_what_stands_next(words: list[str], wanted: list[str]) -> None:
    assert _complete("up", *words) == wanted


def test_all_built_in_configs() -> None:
    assert _complete("up", "") == sorted(path.stem for path in builtin_configs().glob("*.toml"))


def test_a_key_says_what_it_does() -> None:
    shell = ShellComplete(cli, {}, "darts-async", "_DARTS_ASYNC_COMPLETE")
    (item,) = shell.get_completions(["up"], "--run.steps")
    assert item.help == "Learner steps (policy versions) to train."


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_clicks_own(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    made = get_completion_class(shell)
    assert made is not None
    assert result.stdout.strip() == made(cli, {}, "darts-async", "_DARTS_ASYNC_COMPLETE").source().strip()


def test_bash_itself_completes() -> None:
    """The script, sourced by bash, calls the command and offers what it answers."""
    folder = Path(sys.executable).parent
    script = (
        f'PATH="{folder}:$PATH"; source <(darts-async completion bash)\n'
        "COMP_WORDS=(darts-async up --pipeline.mode s); COMP_CWORD=3\n"
        '_darts_async_completion darts-async s --pipeline.mode 2>/dev/null; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["sync", "stream"], done.stdout + done.stderr
