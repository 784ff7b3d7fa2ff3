"""Weights for vLLM from safetensors files that are mapped, not copied: runs inside vLLM's worker.

Either a version is there as a whole, or it is an adapter (LoRA) that is merged here with the base model's weights,
which are mapped from the model folder. Merging before loading has three merits over vLLM's own LoRA support: requests
go on in flight under the new version, no kernel has to know of adapters, and what is served is what a checkpoint
exports. Its price is a load of the whole model at each update, as without an adapter.

The files are in Hugging Face layout. vLLM's kernels keep their weights repacked, so a load goes through its layer-wise
reload: `start` sets the model up to receive a checkpoint, `finish` repacks what came. In between the model is in
pieces; a failure there leaves an engine that must not serve.

Invariant: after `finish`, every weight that a kernel reads is the version's, packed copies of shared weights included;
none is left of the version before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from darts_async.engines.merging import Adapter, folder_tensors, merged_tensors

if TYPE_CHECKING:
    import torch


@dataclass
class SharedFileInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is not typed
    """Nothing to agree on beforehand."""


@dataclass
class SharedFileUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]  # vLLM is not typed
    """One published version."""

    path: str
    """A complete safetensors file, or a model folder, with every parameter of the model; or an adapter's file."""
    base: str = ""
    """Of an adapter: the model folder that it is merged with."""


class SharedFileWeightTransfer(WeightTransferEngine[SharedFileInitInfo, SharedFileUpdateInfo]):  # type: ignore[misc]
    """Loads a whole model per update."""

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
        """Map the files and load every tensor, one at a time. Raises whatever a file or a layer objects to."""
        expected = {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - self._shared
        path = Path(update_info.path)
        if update_info.base:
            tensors = merged_tensors(Path(update_info.base), Adapter.read(path), self.device, self.model_config.dtype)
        else:
            tensors = folder_tensors(path)
        loaded = self.model.load_weights(tensors)
        if missing := sorted(expected - loaded):
            raise ValueError(f"{update_info.path} left {len(missing)} parameters as they were, {missing[0]} among them")

    def finish_weight_update(self) -> None:
        """Repack the layers; from here on the new weights are served."""
        finalize_layerwise_reload(self.model, self.model_config)
        _repack_shared(self.model)

    def shutdown(self) -> None:
        """Do nothing: a mapping ends with the last tensor that uses it."""


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
