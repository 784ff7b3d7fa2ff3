"""Which folder `darts-async eval` measures, and with which config."""

from pathlib import Path

import pytest

from darts_async.config import load_config, to_toml
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError
from darts_async.launcher.eval_target import eval_config
from darts_async.launcher.evaluate import output_file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = load_config(None, [("run.name", "one"), ("run.dir", str(tmp_path)), ("sampling.temperature", "0.5")])
    paths = RunPaths.of(config)
    for step in (2, 10, 9):
        (paths.checkpoints / f"step_{step}").mkdir(parents=True)
        (paths.checkpoints / f"step_{step}" / "config.json").write_text("{}")
    (paths.checkpoints / "step_11").mkdir()  # nothing in it
    (paths.checkpoints / "step_x").mkdir()
    paths.resolved_config.write_text(to_toml(config))
    return paths.root


def test_a_run_stands_for_its_last_checkpoint_and_its_own_config(run: Path):
    config = eval_config(str(run), None, [("eval.prompts", "7")])
    assert Path(config.model.path) == run / "checkpoints" / "step_10"
    assert (config.sampling.temperature, config.eval.prompts) == (0.5, 7)
    one = eval_config(str(run / "checkpoints" / "step_2"), None, [])
    assert one.model.path.endswith("step_2") and one.sampling.temperature == 0.5
    other = eval_config(str(run), "grpo_sync", [])
    assert other.model.path.endswith("step_10")
    assert (other.sampling.temperature, other.pipeline.mode) == (1.0, "sync")


def test_a_bare_model_folder_is_measured_with_the_quickstart(tmp_path: Path):
    config = eval_config(str(tmp_path), None, [])
    assert config == load_config(None, [("model.path", str(tmp_path))])
    assert eval_config("quickstart", None, []).model.path == "quickstart"


def test_what_cannot_be_measured_or_written(run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="no such folder"):
        eval_config(str(tmp_path / "none"), None, [])
    for folder in (run / "checkpoints").iterdir():
        folder.rename(folder.with_name(f"old_{folder.name}"))
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        eval_config(str(run), None, [])
    assert output_file(str(tmp_path)) == tmp_path / "eval.json"
    assert output_file(str(tmp_path / "my.json")) == tmp_path / "my.json"
    with pytest.raises(ConfigError, match="there is no folder"):
        output_file(str(tmp_path / "none" / "my.json"))
