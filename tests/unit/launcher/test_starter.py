"""What `init` writes: a config and a task that pass every check as they are, and never in the place of something."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from darts_async.cli import cli
from darts_async.config import load_config
from darts_async.errors import ConfigError
from darts_async.launcher.preflight import check
from darts_async.launcher.starter import FILES, write_starter
from darts_async.tasks import load_task
from darts_async.tasks.base import Response
from darts_async.tasks.chain_arithmetic import Chain
from darts_async.tasks.rewards import load_reward


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["init", "mine"])
    assert result.exit_code == 0, result.output
    assert "  cd mine\n  darts-async up my_run.toml --dry-run" in result.stdout
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def test_it_passes_every_check_as_it_is(started: Path) -> None:
    plan = check(load_config("my_run.toml"), "my_run.toml")
    assert (len(plan.prompts.train), len(plan.prompts.held_out), plan.prompts.num_skipped) == (64, 64, 0)
    assert [function.name for function in plan.config.reward.functions] == ["my_task.py:correct", "my_task.py:brief"]
    assert sorted(path.name for path in started.iterdir()) == sorted(FILES)


def test_its_prompts_are_what_the_policy_knows_and_its_rewards_are_right(started: Path) -> None:
    task = load_task("my_task.py:MyTask", {"num_prompts": 64, "longest": 8})
    prompts = [*task.train_prompts(), *task.held_out_prompts()]
    assert len({prompt.content for prompt in prompts}) == 128
    correct = load_reward("reward.functions.0.name", "my_task.py:correct", {}, "params")
    brief = load_reward("reward.functions.1.name", "my_task.py:brief", {}, "params")
    for prompt in prompts:
        chain = Chain.parse(prompt.content)
        assert (prompt.answer, 2 <= len(chain.totals) <= 8) == (chain.answer, True)
        assert correct(prompt, Response(f"so\n#### {chain.answer}")) == 1.0
        assert correct(prompt, Response(f"#### {chain.answer}1")) == correct(prompt, Response(chain.answer)) == 0.0
    values = [brief(prompts[0], Response("x" * length)) for length in (0, 1, 100, 1000)]
    assert values[0] == 1.0 and values[2] == 0.5
    assert all(more > less for more, less in itertools.pairwise(values))


def test_the_policy_answers_in_the_form_that_its_reward_reads(started: Path) -> None:
    """Held against the task that ships: both score a response alike."""
    own = load_reward("reward.functions.0.name", "my_task.py:correct", {}, "params")
    shipped = load_task("chain_arithmetic", {})
    for prompt in list(shipped.train_prompts())[:16]:
        for text in (f"#### {prompt.answer}", "#### 12", "no answer", f"#### 3 and #### {prompt.answer}"):
            assert own(prompt, text) == shipped.reward(prompt, text)


@pytest.mark.parametrize("name", FILES)
def test_what_is_there_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} is there already"):
        write_starter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_status_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "darts_async.cli", "init", str(tmp_path / "file" / "below")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
