"""A version that is published again from its checkpoint: what was published is gone with the machine's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darts_async.engines.policy_model import load_model
from darts_async.engines.weights import export_tensors, write_weights

if TYPE_CHECKING:
    from pathlib import Path

    from darts_async.config import Config

__all__ = ["republish"]


def republish(checkpoint: Path, path: Path, config: Config) -> None:
    """Write the weights of a checkpoint's folder as one safetensors file, as a trainer that has them publishes them.

    Takes seconds, and the memory of the weights for a moment; on the thread that does all torch work. Raises what
    transformers raises for a folder that is damaged, `OSError`.
    """
    write_weights(path, export_tensors(load_model(checkpoint, config)))
