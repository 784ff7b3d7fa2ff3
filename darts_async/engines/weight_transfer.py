"""Weights for vLLM from a safetensors file that is mapped, not copied: runs inside vLLM's worker.

The file is in Hugging Face layout. vLLM's kernels keep their weights repacked, so a load goes through its layer-wise
reload: `start` sets the model up to receive a checkpoint, `finish` repacks what came. In between the model is in
pieces; a failure there leaves an engine that must not serve.

Invariant: after `finish`, every weight that a kernel reads is the file's, packed copies of shared weights included.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

if TYPE_CHECKING:
    import torch


@dataclass
class SharedFileInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is not typed
    """Nothing to agree on beforehand."""


@dataclass
class SharedFileUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]  # vLLM is not typed
    """One published version."""

    path: str
    """A complete safetensors file with every parameter of the model."""


class SharedFileWeightTransfer(WeightTransferEngine[SharedFileInitInfo, SharedFileUpdateInfo]):  # type: ignore[misc]
    """Loads a whole model from one mapped file per update."""

    init_info_cls = SharedFileInitInfo
    update_info_cls = SharedFileUpdateInfo

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        own = {name for name, _ in self.model.named_parameters()}
        self._shared = {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - own
        # The reload warns, at every update, of layers that have nothing in a checkpoint (rotary tables, tied heads).
        # That everything else has been loaded is checked below.
        logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)

    def init_transfer_engine(self, init_info: SharedFileInitInfo) -> None:
        """Do nothing: there is no connection to set up."""

    def start_weight_update(self) -> None:
        """Prepare every layer to receive checkpoint weights."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedFileUpdateInfo) -> None:
        """Map the file and load every tensor of it, one at a time. Raises whatever the file or a layer objects to."""
        expected = {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - self._shared
        with safe_open(update_info.path, framework="pt", device="cpu") as file:
            loaded = self.model.load_weights(_tensors(file))
        if missing := sorted(expected - loaded):
            raise ValueError(f"{update_info.path} left {len(missing)} parameters as they were, {missing[0]} among them")

    def finish_weight_update(self) -> None:
        """Repack the layers; from here on the new weights are served."""
        finalize_layerwise_reload(self.model, self.model_config)
        _repack_shared(self.model)

    def shutdown(self) -> None:
        """Do nothing: a mapping ends with the last tensor that uses it."""


def _tensors(file: safe_open) -> Iterator[tuple[str, torch.Tensor]]:
    for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 - not a mapping
        yield name, file.get_tensor(name)  # type: ignore[no-untyped-call]


def _repack_shared(model: torch.nn.Module) -> None:
    """Pack tied output layers again.

    A layer that shares another one's parameter is not loaded itself, so the reload does not process it. On the CPU its
    kernel reads a packed copy, which would stay that of the first version: log-probs off by 0.5 and more, silently.
    """
    users: dict[int, list[Any]] = {}
    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding) and isinstance(layer.quant_method, UnquantizedEmbeddingMethod):
            users.setdefault(id(layer.weight), []).append(layer)
    for layers in users.values():
        for layer in layers if len(layers) > 1 else ():
            layer.quant_method.process_weights_after_loading(layer)
