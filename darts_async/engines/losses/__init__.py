"""The losses: each maps loss tokens and a reference to a loss per token, one short file each.

A loss must not average, must not look beyond the responses it is handed, and leaves `Reference.weights` to the
objective. Tokens that a correction masks arrive with `policy` equal to the old policy (ratio 1) and without gradient.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from darts_async.config.import_path import is_import_path
from darts_async.engines.loss_terms import Loss
from darts_async.engines.losses.cispo import cispo
from darts_async.engines.losses.custom import load_loss
from darts_async.engines.losses.gspo import gspo
from darts_async.engines.losses.ppo_clip import ppo_clip

__all__ = ["LOSSES", "find_loss"]

LOSSES: Final[dict[str, Loss]] = {"ppo_clip": ppo_clip, "gspo": gspo, "cispo": cispo}
"""By the name that `learner.loss` takes."""


@lru_cache(maxsize=64)
def find_loss(name: str, key: str = "learner.loss") -> Loss:
    """Return a loss by its name or import path. `key` is the setting that holds it, for the error message.

    Raises `ConfigError` for a path that cannot be loaded. Names are checked with the config.
    """
    return load_loss(key, name) if is_import_path(name) else LOSSES[name]
