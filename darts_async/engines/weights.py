"""The policy as files: tensors under the names of its own Hugging Face folder, published versions, checkpoints.

Invariant: a file or folder that has its final name is complete. Everything is written beside it first and renamed. A
checkpoint is synced to disk before and after the rename, so this holds after a crash too; a published version is not,
because it lives in shared memory and is worthless then.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from darts_async.durable import partial_of, replace_folder
from darts_async.engines.sharded import like, whole
from darts_async.engines.weights_file import model_shapes
from darts_async.errors import ProtocolError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Copied from the model folder as they are, so that a checkpoint tokenises and stops exactly like its source."""


def export_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights under the names of the model's own folder, which are what vLLM's `load_weights` expects.

    A tied embedding appears once, under the name that the folder has (never also as `lm_head.weight`), and renames or
    fusions that transformers applied while loading are undone. The tensors share memory with the model, unless that is
    sharded: then all processes have to call this, and get the whole.
    """
    from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415 - the caller has it loaded
    from transformers.modeling_utils import remove_tied_weights_from_state_dict  # noqa: PLC0415

    state = whole_state(model)
    for ignored in model._keys_to_ignore_on_save or ():  # noqa: SLF001 - what save_pretrained does
        state.pop(ignored, None)
    reverted: dict[str, torch.Tensor] = revert_weight_conversion(
        model, remove_tied_weights_from_state_dict(state, model)
    )
    return reverted


def whole_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the state dict, shards joined (all processes have to call this then); tied tensors are still one."""
    joined: dict[int, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in joined:
            joined[id(tensor)] = whole(tensor.detach())
        state[name] = joined[id(tensor)]
    return state


def check_folder(folder: Path, model: PreTrainedModel) -> None:
    """Raise `ProtocolError` unless a folder holds exactly the weights of `model`, in their shapes."""
    expected = {name: tuple(tensor.shape) for name, tensor in export_tensors(model).items()}
    found = model_shapes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ProtocolError(
                f"{folder}: {name} is {found.get(name, 'missing')} where the model has {expected.get(name, 'none')}"
            )


def copy_weights(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Give a model, sharded or not, the weights of another one of the same shapes."""
    values = source.state_dict()
    with torch.no_grad():
        for name, tensor in target.state_dict().items():
            tensor.copy_(like(values[name], tensor))


def write_weights(path: Path, tensors: dict[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file, complete or not at all. Raises `OSError` when the file system is full.

    metadata: beside the tensors, in the place of the note that says that they are torch's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    described = dict(metadata or {"format": "pt"})
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=described)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    source: Path,
    further: Sequence[Callable[[Path], None]] = (),
    *,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a Hugging Face folder: weights and configs of `model`, tokenizer and chat template of `source`.

    further: write what else belongs to the checkpoint into the folder that they are given, before it gets its name.
    state: `whole_state` of a sharded model.
    Raises `OSError` when the file system is full; then the folder of that name is as it was.
    """

    def write_model(partial: Path) -> None:
        save: Any = model.save_pretrained
        save(partial, state_dict=state)
        copy_text_files(source, partial)

    write_folder(folder, [write_model, *further])


def write_folder(folder: Path, writers: Sequence[Callable[[Path], None]]) -> None:
    """Make a folder that is complete or not there: each writer is given it before it gets its name.

    A folder of that name is replaced. What a half-written one leaves behind is called `.<name>.partial`.
    """
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for write in writers:
        write(partial)
    replace_folder(partial, folder)


def copy_text_files(source: Path, folder: Path) -> None:
    """Copy tokenizer, chat template and generation settings of a model folder, those that it has."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
