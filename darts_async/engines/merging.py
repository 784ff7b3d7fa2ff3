"""A base model and an adapter, made one: W = W0 + scale * B A, tensor by tensor.

The only place where this sum is formed: the engine's worker takes its weights from here at every update, and a
checkpoint's model folder is written from here, so what is served is what is exported. Invariant: every version is
merged with the base model's own weights, never with those of the version before, so rounding does not add up.

Runs inside vLLM's worker, too: imports torch and safetensors, nothing else that is heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from darts_async.engines.lora_file import adapted_modules, part_names, read_scale
from darts_async.engines.weights_file import INDEX, read_header, weight_files
from darts_async.errors import ProtocolError

__all__ = ["Adapter", "folder_tensors", "merged_tensors", "write_merged"]


class Adapter:
    """The matrices of an adapter, by the weight that they change."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], scale: float) -> None:
        """`tensors` under peft's names."""
        self._scale = scale
        self._parts = {
            f"{module}.weight": tuple(tensors[name] for name in part_names(module))
            for module in adapted_modules(tensors)
        }

    @classmethod
    def read(cls, path: Path) -> Adapter:
        """Read a published file, or a checkpoint's. Raises `ProtocolError`."""
        return cls(load_file(path), read_scale(read_header(path).metadata, path))

    @property
    def weights(self) -> frozenset[str]:
        """Names of the base model's weights that it changes."""
        return frozenset(self._parts)

    def merge(self, name: str, weight: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the weight with its change added, in float32 or wider on `device`; as it is where there is none."""
        if name not in self._parts:
            return weight
        a, b = (part.to(device) for part in self._parts[name])
        wide = torch.promote_types(torch.float32, a.dtype)
        # In place: a large model's weights are large.
        return weight.to(device, wide, copy=True).addmm_(b.to(wide), a.to(wide), alpha=self._scale)


def folder_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a model folder's tensors under their names, mapped, one at a time; of a single file, that one's."""
    for path in weight_files(folder) if folder.is_dir() else [folder]:
        yield from _file_tensors(path)


def merged_tensors(
    folder: Path, adapter: Adapter, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a model folder with the adapter merged in; changed ones come in `dtype` (None: as merged).

    Raises `ProtocolError` at the end when a weight that the adapter changes was not in the folder.
    """
    left = set(adapter.weights)
    for name, tensor in folder_tensors(folder):
        merged = adapter.merge(name, tensor, device)
        yield name, merged if merged is tensor or dtype is None else merged.to(dtype)
        left.discard(name)
    if left:
        raise ProtocolError(f"{folder} has no {min(left)}, which the adapter changes")


def write_merged(folder: Path, base: Path, adapter: Adapter, dtype: torch.dtype) -> None:
    """Write weights and config of a model folder: the base model's files one by one, merged, floating-point weights in
    `dtype`. At most one file's weights are in memory. Raises `OSError`, `ProtocolError`."""
    places: dict[str, str] = {}
    num_bytes = 0
    left = set(adapter.weights)
    files = weight_files(base)
    for path in files:
        tensors = {
            name: merged.to(dtype) if merged.is_floating_point() else merged
            for name, merged in ((name, adapter.merge(name, tensor)) for name, tensor in _file_tensors(path))
        }
        save_file(tensors, folder / path.name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, path.name)
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
        left -= tensors.keys()
    if left:
        raise ProtocolError(f"{base} has no {min(left)}, which the adapter changes")
    if len(files) > 1:
        index = {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _file_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt", device="cpu") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, file.get_tensor(name)
