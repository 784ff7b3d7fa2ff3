"""The part of a policy that training changes, as files: all of its weights, or an adapter.

One interface, two kinds. What the trainer publishes, keeps and goes on from passes through here, so that neither the
trainer nor the processes around it know which kind it is. Methods that say *collective* must be called by all of the
learner's processes; the one whose `main` is set writes.

`WholeWeights`: a published version and a checkpoint hold the model. `AdapterWeights`: a published version holds the
adapter alone; a checkpoint holds it in peft's format under `adapter/`, beside the merged model, which loads like any
other; a recovery point, which nobody but the learner reads, holds the adapter alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from darts_async.durable import partial_of
from darts_async.engines.lora_file import FILE, FOLDER, base_mark, metadata_of, scale_of
from darts_async.engines.policy_model import load_model
from darts_async.engines.weights import (
    check_folder,
    copy_text_files,
    copy_weights,
    export_tensors,
    whole_state,
    write_checkpoint,
    write_folder,
    write_weights,
)
from darts_async.errors import ProtocolError
from darts_async.tasks.chat_files import TEMPLATE_FILE, given_template

if TYPE_CHECKING:
    import torch

    from darts_async.config import Config

__all__ = ["AdapterWeights", "TrainedWeights", "WholeWeights", "republish", "trained_weights"]

Further = Sequence[Callable[[Path], None]]


class TrainedWeights(Protocol):
    """One policy's."""

    def publish(self, path: Path, *, main: bool = True) -> None:
        """Write one safetensors file that an engine can update to. Collective."""

    def save(self, folder: Path, further: Further, *, whole: bool, main: bool = True) -> None:
        """Write a checkpoint, complete or not at all. whole: as a model folder; else what is gone on from will do.
        Collective."""

    def read(self, folder: Path) -> Any:
        """Read a checkpoint's, for `take`. Raises `ProtocolError` when it does not fit; nothing has changed."""

    def take(self, values: Any) -> None:
        """Give the policy what `read` returned. Collective."""


class WholeWeights:
    """Every weight of the model."""

    def __init__(self, model: Any, source: Path, config: Config, *, sharded: bool = False) -> None:
        self._model = model
        self._source = source
        self._config = config
        self._sharded = sharded

    def publish(self, path: Path, *, main: bool = True) -> None:
        """See `TrainedWeights`."""
        tensors = export_tensors(self._model)
        if main:
            write_weights(path, tensors)

    def save(self, folder: Path, further: Further, *, whole: bool, main: bool = True) -> None:  # noqa: ARG002 - always is
        """See `TrainedWeights`."""
        state = whole_state(self._model) if self._sharded else None
        if main:
            template = _own_template(self._config)
            write_checkpoint(folder, self._model, self._source, [template, *further], state=state)

    def read(self, folder: Path) -> Any:
        """Load the checkpoint's model. Raises `ProtocolError` when it is another one."""
        check_folder(folder, self._model)
        return load_model(folder, self._config)

    def take(self, values: Any) -> None:
        """See `TrainedWeights`."""
        copy_weights(values, self._model)


class AdapterWeights:
    """The adapter of a model whose other weights are those of its folder."""

    def __init__(self, model: Any, source: Path, config: Config) -> None:
        self._model = model
        self._source = source
        self._config = config
        self._mark = base_mark(source)

    def publish(self, path: Path, *, main: bool = True) -> None:
        """See `TrainedWeights`."""
        from darts_async.engines.lora import adapter_tensors  # noqa: PLC0415 - peft, where there is an adapter

        tensors = adapter_tensors(self._model)
        if main:
            write_weights(path, tensors, metadata_of(scale_of(self._config.learner), self._mark))

    def save(self, folder: Path, further: Further, *, whole: bool, main: bool = True) -> None:
        """See `TrainedWeights`."""
        from darts_async.engines.lora import adapter_tensors  # noqa: PLC0415 - see `publish`

        tensors = adapter_tensors(self._model)
        if not main:
            return
        write_folder(folder, [lambda partial: self._write(partial, tensors, whole=whole), *further])

    def _write(self, partial: Path, tensors: dict[str, torch.Tensor], *, whole: bool) -> None:
        import torch  # noqa: PLC0415 - for a name

        from darts_async.engines.lora import write_adapter_config  # noqa: PLC0415
        from darts_async.engines.merging import Adapter, write_merged  # noqa: PLC0415

        scale = scale_of(self._config.learner)
        (partial / FOLDER).mkdir()
        write_weights(partial / FOLDER / FILE, tensors, metadata_of(scale, self._mark))
        write_adapter_config(partial / FOLDER, self._model, self._config, self._source)
        if whole:
            dtype = getattr(torch, self._config.model.dtype)
            write_merged(partial, self._source, Adapter({n: t.cpu() for n, t in tensors.items()}, scale), dtype)
            copy_text_files(self._source, partial)
            _own_template(self._config)(partial)

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        """Read the checkpoint's adapter. Raises `ProtocolError` when there is none, or one of another base model."""
        from darts_async.engines.lora import check_fit, read_adapter  # noqa: PLC0415 - see `publish`

        tensors = read_adapter(folder / FOLDER / FILE, self._source, self._mark)
        try:
            check_fit(self._model, tensors)
        except ValueError as error:
            raise ProtocolError(f"{folder / FOLDER}: {error}") from error
        return tensors

    def take(self, values: dict[str, torch.Tensor]) -> None:
        """See `TrainedWeights`."""
        from darts_async.engines.lora import load_adapter  # noqa: PLC0415 - see `publish`

        load_adapter(self._model, values)


def _own_template(config: Config) -> Callable[[Path], None]:
    """What puts the chat template of `model.chat_template` into a checkpoint, where there is one."""
    template = given_template(config.model.chat_template)

    def write(folder: Path) -> None:
        if template is not None:
            (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")

    return write


def trained_weights(model: Any, source: Path, config: Config, *, sharded: bool = False) -> TrainedWeights:
    """Return what a config trains of a model, whose adapter is in place if there is to be one."""
    if config.learner.lora_rank:
        return AdapterWeights(model, source, config)
    return WholeWeights(model, source, config, sharded=sharded)


def republish(checkpoint: Path, path: Path, config: Config) -> None:
    """Write a checkpoint's version as it was published: what was published is gone with the machine's memory.

    Takes seconds, and the memory of the weights for a moment; on the thread that does all torch work. Raises what
    transformers raises for a folder that is damaged, `OSError`.
    """
    if not config.learner.lora_rank:
        write_weights(path, export_tensors(load_model(checkpoint, config)))
        return
    partial = partial_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint / FOLDER / FILE, partial)  # it is the published file
    partial.replace(path)
