"""Configuration: the typed schema, TOML files that extend each other, command-line overrides, one clear error."""

from darts_async.config.load import builtin_configs, load_config, to_toml
from darts_async.config.schema import Config

__all__ = ["Config", "builtin_configs", "load_config", "to_toml"]
