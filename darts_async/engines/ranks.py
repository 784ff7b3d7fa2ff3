"""The learner's processes as one of them sees the others: who trains what, and how results come together.

With one process everything here is the identity. With several, every method that says *collective* must be called by
all of them in the same order; what they return is then the same everywhere. Invariant: sums are sums over all loss
tokens, never means over processes, so that the update is the one that a single process would make.

`replicate`: each process has all of the model; gradients are added up once an update. `fsdp2`: parameters, gradients
and optimiser state lie in shards, and each backward pass adds its gradients up, so that all processes have to make the
same number of passes (`share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist

from darts_async.algorithms.sharing import share_out

if TYPE_CHECKING:
    from darts_async.engines.token_sums import TokenSums

__all__ = ["Ranks", "join_ranks", "leave_ranks"]

_TIMEOUT: Final = timedelta(minutes=30)
"""Longest wait for another process in a collective. A process that died is noticed at once, not by this."""


class Ranks:
    """One process among `size`."""

    def __init__(self, rank: int = 0, size: int = 1, *, sharded: bool = False) -> None:
        self.rank = rank
        self.size = size
        self.sharded = sharded and size > 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def adds_gradients(self) -> bool:
        """Whether gradients are local until `add_up`."""
        return self.size > 1 and not self.sharded

    def share(self, costs: Sequence[int]) -> list[int | None]:
        """Return the indices of this process's micro-batches; None stands for a pass that adds nothing.

        With shards all processes get equally many entries.
        """
        shares = share_out(costs, self.size)
        mine: list[int | None] = [*shares[self.rank]]
        if self.sharded:
            mine += [None] * (max(map(len, shares)) - len(mine))
        return mine

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so. Collective."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def stops(self, flag: bool, device: torch.device) -> bool:
        """Whether to make no further pass. Where passes are made together, so is this decision; else it is `flag`."""
        return self.any(flag, device) if self.sharded else flag

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors, in place, by their sums over the processes. Collective."""
        if self.size == 1:
            return
        pending = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in pending:
            work.wait()

    def join(self, sums: TokenSums, device: torch.device) -> TokenSums:
        """Return the sums of all processes, joined by `+=` in order of rank. Collective."""
        if self.size == 1:
            return sums
        mine = torch.tensor(astuple(sums), dtype=torch.float64, device=device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        kinds = [type(getattr(sums, field.name)) for field in fields(sums)]
        total = type(sums)()
        for part in parts:
            total += type(sums)(*(kind(value) for kind, value in zip(kinds, part.tolist(), strict=True)))
        return total

    def shard(self, scorer: torch.nn.Module, device: torch.device) -> None:
        """Spread the parameters over the processes (FSDP2), decoder layers as units and the rest as the root's.

        In place; a no-op for replicas. Backward passes then *sum* gradients over processes (FSDP's default is the
        mean), in float32. `scorer` has the causal language model as `.model`. Collective.
        """
        if not self.sharded:
            return
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - seconds, for shards alone
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard  # noqa: PLC0415

        names = set(getattr(scorer.model, "_no_split_modules", None) or ())
        layers = [module for module in scorer.modules() if type(module).__name__ in names]
        mesh = init_device_mesh(device.type, (self.size,))
        precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for module in (*layers, scorer):
            fully_shard(module, mesh=mesh, mp_policy=precision)
        for module in scorer.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                # Else it is a product and a sum in one, which gloo does not have.
                module.set_force_sum_reduction_for_comms(True)


def join_ranks(rank: int, size: int, store: Path, *, sharded: bool) -> Ranks:
    """Meet the other processes over a file that they share (nobody has to pick a free port). Blocks until all are here.

    gloo, over the loopback interface where that has its Linux name, or nccl where there are GPUs, one a process.
    """
    backend: Any = "nccl" if torch.cuda.is_available() else "gloo"
    meeting = dist.FileStore(str(store), size)  # type: ignore[attr-defined] # documented, but not in its `__all__`
    dist.init_process_group(backend, store=meeting, rank=rank, world_size=size, timeout=_TIMEOUT)
    return Ranks(rank, size, sharded=sharded)


def leave_ranks() -> None:
    """Close the connections to the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()
