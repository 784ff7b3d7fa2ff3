"""Configuration: the typed schema, TOML files that extend each other, command-line overrides, one clear error.

The schema is loaded when it is asked for: reward workers need import paths alone, and are many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts_async.config.load import builtin_configs, load_config, to_toml
    from darts_async.config.schema import Config

__all__ = ["Config", "builtin_configs", "load_config", "to_toml"]


def __getattr__(name: str) -> Any:
    if name == "Config":
        from darts_async.config.schema import Config  # noqa: PLC0415 - see above

        return Config
    if name in __all__:
        from darts_async.config import load  # noqa: PLC0415 - see above

        return getattr(load, name)
    raise AttributeError(name)
