"""Adapters (LoRA) as files: names, shapes, scale and base model, read from headers. No torch, no tensor data.

A published adapter is one safetensors file with the tensors under peft's names, and in its metadata what a reader needs
to merge it: the scale, and the mark of the base model that it was trained on. The same file, beside peft's own
`adapter_config.json`, is what a checkpoint keeps. Invariant: what `check_adapter` lets pass can be merged with the base
model whose shapes and mark it was given.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from darts_async.engines.weights_file import read_header, weight_files
from darts_async.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from darts_async.config import Config
    from darts_async.config.schema import LearnerSection
    from darts_async.engines.weights_file import Shapes

__all__ = [
    "FILE",
    "FOLDER",
    "adapted_modules",
    "adapter_bytes",
    "alpha_of",
    "base_mark",
    "check_adapter",
    "is_adapter",
    "metadata_of",
    "part_names",
    "read_scale",
    "scale_of",
    "targeted",
]

FOLDER: Final = "adapter"
"""Within a checkpoint. Not in the checkpoint's own folder: transformers would take it for an adapter, and look for the
base model that it names."""
FILE: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_PART: Final = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])\.weight$")
_KEY: Final = "lora"
_MARK_BYTES: Final = 256
"""Of each end of each tensor: another fine-tuning of the same model differs there."""


def part_names(module: str) -> tuple[str, str]:
    """Return peft's names of a module's A and B: `A` is [rank, in], `B` is [out, rank]."""
    return f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight"


def is_adapter(names: Iterable[str]) -> bool:
    """Whether these are the names of an adapter's tensors, or some of them."""
    return any(_PART.match(name) for name in names)


def adapted_modules(names: Iterable[str]) -> list[str]:
    """Return the modules that an adapter's tensors are of, in order."""
    return sorted({match[1] for match in map(_PART.match, names) if match})


def alpha_of(settings: LearnerSection) -> float:
    """`lora_alpha`, or what it is where it is unset."""
    return 2.0 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha


def scale_of(settings: LearnerSection) -> float:
    """What B A is multiplied with: `lora_alpha / lora_rank`."""
    return alpha_of(settings) / settings.lora_rank


class _Described(msgspec.Struct, forbid_unknown_fields=True):
    scale: float
    base: str
    """`base_mark` of the base model."""


def metadata_of(scale: float, mark: str) -> dict[str, str]:
    """What stands beside the tensors of an adapter's file. One entry, because the library that writes such files puts
    several in an order that changes from call to call, and the same version has to be the same file."""
    return {_KEY: msgspec.json.encode(_Described(scale, mark)).decode()}


def read_scale(metadata: dict[str, str], path: Path) -> float:
    """Return the scale that an adapter's file was written with. Raises `ProtocolError`."""
    return _described(metadata, path).scale


def _described(metadata: dict[str, str], path: Path) -> _Described:
    try:
        return msgspec.json.decode(metadata.get(_KEY, ""), type=_Described)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{path} does not say how its adapter is to be merged: {error}") from error


def check_adapter(path: Path, base: Shapes, mark: str) -> None:
    """Raise `ProtocolError` unless the file is an adapter for the base model of these shapes and this mark."""
    header = read_header(path)
    if _described(header.metadata, path).base != mark:
        raise ProtocolError(
            f"{path} is an adapter for another base model than the one that is served: both need the same folder "
            "(model.path), file by file"
        )
    shapes = {name: entry.shape for name, entry in header.entries.items()}
    known: set[str] = set()
    for module in adapted_modules(shapes):
        name_a, name_b = part_names(module)
        a, b, weight = shapes.get(name_a, ()), shapes.get(name_b, ()), base.get(f"{module}.weight", ())
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != weight:
            raise ProtocolError(
                f"{path}: the adapter of {module} is {b or 'missing'} times {a or 'missing'} where the base model has "
                f"{weight or 'no such weight'}"
            )
        known |= {name_a, name_b}
    if unknown := sorted(shapes.keys() - known):
        raise ProtocolError(f"{path} holds {unknown[0]}, which is no part of an adapter")


def base_mark(folder: Path) -> str:
    """Return 16 hex digits by which two folders with other weights differ: of each tensor its name, type, shape and the
    first and last bytes. Reads a few hundred small pieces. Raises `ProtocolError`."""
    digest = hashlib.blake2b(digest_size=8)
    for path in weight_files(folder):
        header = read_header(path)
        try:
            with path.open("rb") as file:
                for name, entry in sorted(header.entries.items()):
                    digest.update(f"{name} {entry.dtype} {entry.shape}\n".encode())
                    first, end = entry.data_offsets
                    for start in (first, max(first, end - _MARK_BYTES)):
                        file.seek(header.data_start + start)
                        digest.update(file.read(min(_MARK_BYTES, end - start)))
        except OSError as error:
            raise ProtocolError(f"cannot read the weights file {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def targeted(base: Shapes, targets: str | Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the matrices that `learner.lora_targets` means, as far as the shapes of the base model's folder tell: all
    but embedding and output layer for `all-linear`, else those of the modules that are named."""
    names = [targets] if isinstance(targets, str) else targets
    chosen: dict[str, tuple[int, ...]] = {}
    for name, shape in base.items():
        module = name.removesuffix(".weight")
        if len(shape) != 2 or module == name:
            continue
        if targets == "all-linear":
            wanted = "embed" not in module and module != "lm_head"
        else:
            wanted = any(module == target or module.endswith(f".{target}") for target in names)
        if wanted:
            chosen[name] = shape
    return chosen


def adapter_bytes(base: Shapes, config: Config) -> int:
    """Return about how many bytes an adapter has, by the shapes of the base model's folder."""
    width = 4 if config.model.dtype == "float32" else 2
    shapes = targeted(base, config.learner.lora_targets).values()
    return width * config.learner.lora_rank * sum(sum(shape) for shape in shapes)
