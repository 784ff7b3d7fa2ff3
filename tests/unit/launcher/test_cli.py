"""The command line as a person meets it: exit statuses, one clear message, no traceback, nothing heavy imported."""

import subprocess
import sys

import click
import pytest

from darts_async.cli import parse_arguments


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darts_async.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_arguments():
    assert parse_arguments([]) == (None, [])
    assert parse_arguments(["a.toml", "--run.steps", "3", "--learner.lr=-1"]) == (
        "a.toml",
        [("run.steps", "3"), ("learner.lr", "-1")],
    )


@pytest.mark.parametrize("words", [["a.toml", "b.toml"], ["--steps", "3"], ["--run.steps"], ["-x"]])
def test_arguments_that_make_no_sense(words: list[str]):
    with pytest.raises(click.UsageError):
        parse_arguments(words)


def test_help_names_the_command():
    result = _cli("--help")
    assert result.returncode == 0
    assert "up" in result.stdout


def test_bad_key_is_status_2_with_one_line():
    result = _cli("up", "--group.sise", "4")
    assert result.returncode == 2
    assert result.stderr.strip().count("\n") == 0
    assert "group.size" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_key_in_two_places_of_a_table_is_status_2():
    result = _cli("bench", "--live", "--grid", "learner.lr=1e-3,2e-3", "--learner.lr", "1e-4")
    assert result.returncode == 2
    assert "learner.lr = '1e-4': is also set by --variant or --grid" in result.stderr


def test_usage_error_is_status_2():
    result = _cli("up", "--sise", "4")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_dry_run_imports_no_torch_and_starts_nothing(tmp_path):
    code = (
        "import sys; from darts_async import cli\n"
        "sys.argv = ['darts-async', 'up', '--dry-run', '--run.dir', sys.argv[1]]\n"
        "try:\n    cli.main()\nfinally:\n    print('HEAVY', {'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "HEAVY set()" in result.stdout
    assert "[generator]" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_a_setting_that_is_easily_misread_is_told_before_the_start(tmp_path):
    result = _cli("up", "--dry-run", "--run.dir", str(tmp_path), "--selection.baseline", "finished")
    assert result.returncode == 0
    assert "# warning: selection.baseline = 'finished' depends on which candidates finish" in result.stdout
