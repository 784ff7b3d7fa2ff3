"""The adapter (LoRA, arXiv 2106.09685) on the policy under training: peft's layers, put into the model in place.

Invariants: the base model's weights never change; two processes, or two starts of a run, that begin with an adapter
begin with the same one; what is trained has a weight of its own in the model folder, so that it can be merged there.
An adapter is of the model's type, as the engine gets it, and trained through float32 masters like any other weight.

The only module that imports peft. Blocking; all calls on one thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers.modeling_layers import GradientCheckpointingLayer

from darts_async.algorithms.seeding import stable_hash
from darts_async.engines.lora_file import alpha_of, check_adapter, part_names
from darts_async.engines.sharded import like, whole
from darts_async.engines.weights_file import model_shapes
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.weights_file import Shapes

__all__ = [
    "adapter_tensors",
    "add_adapter",
    "check_fit",
    "load_adapter",
    "read_adapter",
    "without_adapter",
    "write_adapter_config",
]

_log = logging.getLogger(__name__)

_NAME = "default"
_CONFIG = "adapter_config.json"
_NOT_THERE = "have no weight of their own in the model folder to be merged with"


def add_adapter(model: Any, config: Config, folder: Path) -> None:
    """Put a fresh adapter into a model that was loaded from `folder`, and freeze all else. It changes nothing yet.

    Raises `ConfigError` for targets that the model does not have, or that cannot be merged.
    """
    described = _describe(config, folder, _targets(model, config.learner.lora_targets, model_shapes(folder)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_hash("lora", config.run.seed) & (1 << 63) - 1)
        peft.inject_adapter_in_model(described, model, _NAME)
    model.eval()


def _describe(config: Config, folder: Path, modules: list[str]) -> peft.LoraConfig:
    return peft.LoraConfig(
        r=config.learner.lora_rank,
        lora_alpha=cast("int", alpha_of(config.learner)),  # any number will do
        target_modules=modules,
        lora_dropout=0.0,  # log-probs are those of the engine, which has none
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(folder.absolute()),
    )


def _targets(model: Any, targets: str | list[str], shapes: Shapes) -> list[str]:
    """Return the full names of the layers that get an adapter."""
    head, modules = model.get_output_embeddings(), dict(model.named_modules())
    linear = {name: module for name, module in modules.items() if type(module) is torch.nn.Linear}

    def is_in_folder(name: str) -> bool:
        return shapes.get(f"{name}.weight") == tuple(modules[name].weight.shape)

    if targets == "all-linear":
        wanted = [name for name, module in linear.items() if module is not head]
        if lost := [name for name in wanted if not is_in_folder(name)]:
            _log.warning("%d linear layers, %s among them, %s and get no adapter", len(lost), lost[0], _NOT_THERE)
        chosen = [name for name in wanted if is_in_folder(name)]
        if not chosen:
            raise _refused(targets, f"no linear layer of {type(model).__name__} has a weight of its own in the folder")
        return chosen
    chosen = []
    for target in [targets] if isinstance(targets, str) else targets:
        named = [name for name in modules if name == target or name.endswith(f".{target}")]
        if not named:
            known = sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head})
            raise _refused(targets, f"{type(model).__name__} has no `{target}`", f"It has {', '.join(known)}.")
        for name in named:
            if name not in linear:
                raise _refused(targets, f"{name} is a {type(modules[name]).__name__}, no linear layer")
            if modules[name].weight is model.get_input_embeddings().weight:
                raise _refused(targets, f"{name} shares its weight with the embedding, which would change too")
            if not is_in_folder(name):
                raise _refused(targets, f"{name} has no weight of its own in the model folder to be merged with")
        chosen += named
    return list(dict.fromkeys(chosen))


def _refused(targets: str | list[str], rule: str, fix: str = "Leave it out.") -> ConfigError:
    return ConfigError("learner.lora_targets", targets, rule, fix)


def _layers(model: Any) -> dict[str, LoraLayer]:
    """Adapted layers by the name that they have in the base model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


# --- its weights ------------------------------------------------------------------------------------------------------


def _parts(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for module, layer in _layers(model).items():
        name_a, name_b = part_names(module)
        yield name_a, cast("torch.Tensor", layer.lora_A[_NAME].weight)
        yield name_b, cast("torch.Tensor", layer.lora_B[_NAME].weight)


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return the adapter under peft's names, as it is now. Collective where the model is sharded."""
    return {name: whole(tensor.detach()) for name, tensor in _parts(model)}


def read_adapter(path: Path, folder: Path, mark: str) -> dict[str, torch.Tensor]:
    """Read an adapter of this base model. Raises `ProtocolError` when it is damaged, or of another model."""
    check_adapter(path, model_shapes(folder), mark)
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def check_fit(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Raise `ValueError` when these values are of another adapter than the model's."""
    mine = dict(_parts(model))
    for name in sorted(mine.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        expected = tuple(mine[name].shape) if name in mine else "not there"
        if found != expected:
            raise ValueError(f"{name} is {found}; with learner.lora_rank and learner.lora_targets it is {expected}")


def load_adapter(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Give the model's adapter these values, which fit. Collective where the model is sharded."""
    with torch.no_grad():
        for name, tensor in _parts(model):
            tensor.copy_(like(tensors[name], tensor))


def write_adapter_config(folder: Path, model: Any, config: Config, base: Path) -> None:
    """Write what peft needs to know beside the tensors: `PeftModel.from_pretrained(base, folder)` then loads them."""
    described = _describe(config, base, sorted(_layers(model)))
    described.inference_mode = True
    described.save_pretrained(str(folder))
    document = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    document["target_modules"] = sorted(document["target_modules"])  # a set: its order changes from start to start
    (folder / _CONFIG).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """The model as it was before training, for the calls inside; no gradient may be pending.

    Layers do not checkpoint their activations meanwhile: there is no backward pass, and it would switch caches off.
    """
    layers = list(_layers(model).values())
    recomputing = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m.training]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    for module in recomputing:
        module.training = False
    try:
        yield
    finally:
        for module in recomputing:
            module.training = True
        for layer in layers:
            layer.enable_adapters(enabled=True)
