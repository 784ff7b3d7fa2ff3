"""The GPUs of this machine as its driver shows them, and the environment that gives a process its share of them.

No torch here: the launcher stays light, and a library that has once looked at the GPUs cannot be told otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from darts_async.config.devices import devices_of
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config import Config

__all__ = ["VISIBLE", "check_gpus", "gpu_environment", "visible_gpus"]

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_DRIVER: Final = Path("/proc/driver/nvidia/gpus")


def visible_gpus(variables: Mapping[str, str] = os.environ, driver: Path = _DRIVER) -> list[str]:
    """Return the names of the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` knows them."""
    if VISIBLE in variables:
        names = [name.strip() for name in variables[VISIBLE].split(",")]
        return [name for name in names if name and name != "-1"]
    return [str(index) for index, _ in enumerate(sorted(driver.iterdir()))] if driver.is_dir() else []


def check_gpus(config: Config, gpus: list[str]) -> None:
    """Every GPU that is dealt out is there. Raises `ConfigError`."""
    for key, given in (
        ("generator.devices", config.generator.devices),
        ("learner.devices", config.learner.devices),
    ):
        if absent := [index for index in given if index >= len(gpus)]:
            raise ConfigError(
                key,
                given,
                f"there is no GPU {absent[0]}: {len(gpus)} can be used here"
                + (f" ({VISIBLE} is {os.environ[VISIBLE]!r})" if VISIBLE in os.environ else ""),
                f"Name GPUs from 0 to {len(gpus) - 1}." if gpus else "Remove it to run on the CPU.",
            )


def gpu_environment(config: Config, role: str, rank: int, gpus: list[str]) -> dict[str, str]:
    """Return the variables that show a process its GPUs and no others; none where it was not given any.

    An index counts those that the launcher itself sees. (The order is the driver's, so that an index here is the one
    that `nvidia-smi` shows.)
    """
    wanted = devices_of(config, role, rank)
    if not wanted:
        return {}
    return {VISIBLE: ",".join(gpus[index] for index in wanted), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
