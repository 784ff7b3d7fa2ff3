"""What a cell's checkpoints come to on the held-out prompts, measured behind its run.

An evaluation in the middle of a run holds the pipeline up, the more the more it overlaps. So a race writes checkpoints
and scores them when the run is over, on the same engine: no second of it is in the run's times.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = ["CheckpointScore", "checkpoints_to_score", "is_scored"]

_STEP: Final = re.compile(r"step_(\d+)")


class CheckpointScore(msgspec.Struct, frozen=True):
    """One checkpoint."""

    version: int
    """Steps behind it."""
    reward: float
    """Mean over the prompts of the mean over their samples (pass@1)."""
    response_length: float
    """Mean, in tokens."""


def is_scored(config: Config) -> bool:
    """Whether a cell's checkpoints are scored: those that it writes every so many steps, if anything is held out."""
    return config.checkpoint.every_steps > 0 and config.eval.prompts > 0


def checkpoints_to_score(config: Config, folder: Path) -> list[tuple[int, Path]]:
    """Return (version, its weights: a file, or the folder where they are in several) of the periodic checkpoints in a
    run's folder, in order."""
    found = ((int(match[1]), path) for path in folder.iterdir() if (match := _STEP.fullmatch(path.name)))
    every = config.checkpoint.every_steps
    periodic = [(version, path) for version, path in sorted(found) if version % every == 0]
    return [(version, file if (file := path / "model.safetensors").is_file() else path) for version, path in periodic]
