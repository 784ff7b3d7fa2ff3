"""Which GPUs each process of a run gets, from `generator.devices` and `learner.devices`. Pure.

Invariant: no GPU is dealt out twice, and a process that is given GPUs sees those alone. Whether the machine has them is
the preflight's to check.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Final

from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import Config

__all__ = ["check_devices", "devices_of", "devices_per_engine"]

_SPANS: Final = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def devices_per_engine(config: Config) -> int:
    """Return how many GPUs one engine spans, by its arguments."""
    arguments: dict[str, Any] = config.generator.engine_args
    sizes = [arguments.get(name, 1) for name in _SPANS]
    return prod(size if isinstance(size, int) and size > 0 else 1 for size in sizes)


def devices_of(config: Config, role: str, rank: int) -> tuple[int, ...]:
    """Return the GPUs of a process by index; empty: it is not told, and sees them all. Replicas beyond the configured
    ones (from elsewhere) have none of this machine's."""
    if role == "generator":
        each = devices_per_engine(config)
        return tuple(config.generator.devices[rank * each : (rank + 1) * each])
    return tuple(config.learner.devices) if role == "learner" else ()


def check_devices(config: Config) -> None:
    """Raise `ConfigError` for too few, too many, or one dealt out twice."""
    generator, learner = config.generator, config.learner
    each = devices_per_engine(config)
    wanted = (
        ("generator.devices", generator.devices, generator.replicas * each, f"{generator.replicas} replicas x {each}"),
        ("learner.devices", learner.devices, learner.processes, f"learner.processes = {learner.processes}"),
    )
    for key, given, number, why in wanted:
        if not given:
            continue
        if len(given) != number:
            raise ConfigError(
                key, given, f"names {len(given)} GPUs where {number} are needed ({why})", "Name as many, or none."
            )
        if len(set(given)) != number:
            raise ConfigError(key, given, "names a GPU twice", "Name each of them once.")
    if shared := sorted(set(generator.devices) & set(learner.devices)):
        raise ConfigError(
            "learner.devices",
            learner.devices,
            f"shares GPU {', '.join(map(str, shared))} with generator.devices",
            "Give each GPU to one of them.",
        )
    if generator.devices and generator.engine == "sim":
        raise ConfigError(
            "generator.devices", generator.devices, "engine `sim` computes nothing on a GPU", "Remove it."
        )
