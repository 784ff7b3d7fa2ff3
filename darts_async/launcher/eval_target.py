"""What `darts-async eval` measures, a Hugging Face folder or that of a run, and the config it is measured with.

Pure but for looking at folders. A run's own resolved config is the default, so that a checkpoint is measured on the
task, at the lengths and the temperature that it was trained with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from darts_async.config import load_config
from darts_async.config.paths import RunPaths
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = ["eval_config", "last_checkpoint"]

_STEP = re.compile(r"step_(\d+)")


def eval_config(checkpoint: str, source: str | None, overrides: Sequence[tuple[str, str]]) -> Config:
    """Return the config with `model.path` set to the checkpoint. Raises `ConfigError`.

    checkpoint: a model folder, a run folder (its last checkpoint is taken), or `quickstart`. source: `--config`; None:
    the resolved config of the run that the checkpoint is from, or the quickstart's.
    """
    if checkpoint == "quickstart":
        return load_config(source, overrides)
    folder = Path(checkpoint).absolute()
    if not folder.is_dir():
        raise ConfigError("CHECKPOINT", checkpoint, "no such folder", "Give a checkpoint's folder, or a run's.")
    paths = RunPaths(folder)
    if paths.resolved_config.is_file():
        folder = last_checkpoint(paths)
    else:
        paths = RunPaths(folder.parent.parent)
    if source is None and folder.parent == paths.checkpoints and paths.resolved_config.is_file():
        source = str(paths.resolved_config)
    return load_config(source, [*overrides, ("model.path", str(folder))])


def last_checkpoint(paths: RunPaths) -> Path:
    """Return the folder of a run's latest version. Raises `ConfigError` when there is none."""
    found = {
        int(match[1]): folder
        for folder in paths.checkpoints.glob("step_*")
        if (match := _STEP.fullmatch(folder.name)) and (folder / "config.json").is_file()
    }
    if not found:
        raise ConfigError(
            "CHECKPOINT",
            str(paths.root),
            "the run has no checkpoint yet",
            "Wait for one (checkpoint.every_steps), or give a model folder.",
        )
    return found[max(found)]
