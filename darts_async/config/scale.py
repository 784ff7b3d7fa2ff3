"""Rules about the learner's processes. What only the machine knows (its GPUs) is checked where they are started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import Config

__all__ = ["check_processes"]


def check_processes(config: Config) -> None:
    """Raise `ConfigError` for shards with nobody to share them with."""
    settings = config.learner
    if settings.sharding == "fsdp2" and settings.processes == 1:
        raise ConfigError(
            "learner.sharding",
            settings.sharding,
            "spreads the model over processes, and learner.processes = 1",
            "Raise learner.processes, or choose 'replicate'.",
        )
