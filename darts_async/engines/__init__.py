"""Inference engines behind one contract (`base.RolloutEngine`). The only folder whose modules may import torch or vLLM.

This file imports neither, and no engine: asking for one by name is what loads it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, cast

from darts_async.config import Config
from darts_async.engines.base import EngineOutput, RolloutEngine
from darts_async.errors import ConfigError

__all__ = ["ENGINES", "EngineOutput", "RolloutEngine", "make_rollout_engine"]

ENGINES: Final[dict[str, tuple[str, str]]] = {
    "vllm": ("darts_async.engines.vllm_engine", "VllmEngine"),
    "sim": ("darts_async.engines.sim_engine", "SimEngine"),
}
"""Value of `generator.engine` to module and class; the class is called with the config and the replica's rank."""


def make_rollout_engine(config: Config, rank: int) -> RolloutEngine:
    """Build the configured engine without starting it. Raises `ConfigError` for a name or arguments it cannot have."""
    name: str = config.generator.engine
    if name not in ENGINES:
        raise ConfigError("generator.engine", name, "no such engine", f"Choose one of {', '.join(sorted(ENGINES))}.")
    module, attribute = ENGINES[name]
    make = cast("Callable[[Config, int], RolloutEngine]", getattr(importlib.import_module(module), attribute))
    return make(config, rank)
