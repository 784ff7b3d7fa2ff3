"""What vLLM loads of ours in every one of its processes (entry point group `vllm.general_plugins`).

It must do nothing that another user of the same installation would notice: it adds a weight-transfer engine under a
name of its own, and ties the process to its parent only where the environment asks for it.
"""

from __future__ import annotations

import os
from typing import Final

from darts_async.engines.process import DIE_WITH_PARENT, engine_child_dies_with_parent

PLUGIN: Final = "darts_async"
"""Name of the entry point."""

SHARED_FILE: Final = "shared_file"
"""Weight-transfer backend: a safetensors file that trainer and engine both see (one host)."""

BACKENDS: Final[dict[str, tuple[str, str]]] = {
    SHARED_FILE: ("darts_async.engines.weight_transfer", "SharedFileWeightTransfer"),
}
"""Backends that this package adds to vLLM's own (`nccl`, `ipc`): name to module and class."""


def register() -> None:
    """Entry point. May be called any number of times in a process."""
    if os.environ.get(DIE_WITH_PARENT) == "1":
        engine_child_dies_with_parent()
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory  # noqa: PLC0415 - heavy

    for name, (module, attribute) in BACKENDS.items():
        if name not in WeightTransferEngineFactory._registry:  # noqa: SLF001 - it has no public look-up
            WeightTransferEngineFactory.register_engine(name, module, attribute)
