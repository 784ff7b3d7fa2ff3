"""Sinks by name, and by import path. Their libraries are imported in the sink's own thread, not here."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Sequence
from typing import Final, cast
from urllib.parse import urlsplit

from darts_async.config.import_path import find_module, is_import_path, load_function
from darts_async.config.schema import MetricsSection
from darts_async.errors import ConfigError
from darts_async.sinks.base import MakeSink
from darts_async.sinks.tensorboard import make_tensorboard
from darts_async.sinks.weights_and_biases import make_wandb

__all__ = ["SINKS", "check_sinks", "sink_makers"]

SINKS: Final[dict[str, MakeSink]] = {"tensorboard": make_tensorboard, "wandb": make_wandb}
_LIBRARIES: Final = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_KEY: Final = "metrics.sinks"


def check_sinks(settings: MetricsSection) -> None:
    """What the sinks need is installed, and there. Nothing of it is imported. Raises `ConfigError`."""
    for name in settings.sinks:
        if is_import_path(name):
            find_module(_KEY, name)
        elif importlib.util.find_spec(_LIBRARIES[name]) is None:
            rule = f"the package `{_LIBRARIES[name]}` is not installed"
            raise ConfigError(_KEY, name, rule, 'Install it: pip install "darts-async[metrics]".')
    if "wandb" in settings.sinks and settings.wandb_mode == "online" and not _has_key():
        raise ConfigError(
            "metrics.wandb_mode",
            "online",
            "no key for Weights & Biases is there, and nobody is asked for one",
            "Run `wandb login` or set WANDB_API_KEY; or use wandb_mode `offline` and `wandb sync` later.",
        )


def sink_makers(names: Sequence[str]) -> dict[str, MakeSink]:
    """Return what makes each sink, by a short name of it; import what is the user's own. Raises `ConfigError`."""
    makers: dict[str, MakeSink] = {}
    for name in names:
        if not is_import_path(name):
            makers[name] = SINKS[name]
            continue
        short = base = name.rpartition(":")[2]
        number = 1
        while short in makers or short in SINKS:
            number += 1
            short = f"{base}_{number}"
        makers[short] = cast("MakeSink", load_function(_KEY, name, ("run",)))
    return makers


def _has_key() -> bool:
    """Whether W&B finds a key where it looks, so that it does not ask for one on the terminal."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC") or None).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
