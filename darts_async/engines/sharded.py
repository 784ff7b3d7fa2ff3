"""Tensors that may lie in shards over several processes (FSDP2's `DTensor`), seen as a whole.

`whole` and `like` are collective for such tensors: every process has to call them, in the same order.
"""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["like", "whole"]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself, or what its shards make together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(values: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """Return whole values (the same in every process) as a copy placed, typed and sharded like `pattern`."""
    placed = values.to(device=pattern.device, dtype=pattern.dtype, copy=True)
    return (
        distribute_tensor(placed, pattern.device_mesh, pattern.placements) if isinstance(pattern, DTensor) else placed
    )
