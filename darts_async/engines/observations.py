"""What is measured on the batches of a step beside the update itself: shadows and curves by age.

It reads, and changes nothing of the step. All it keeps adds up over micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from darts_async.algorithms.age_curves import AgeCurves
from darts_async.engines.shadow import Shadows

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.loss_tokens import LossTokens

__all__ = ["Observations"]


class Observations:
    """The open step's. `step` is the policy version that the step starts from."""

    def __init__(self, config: Config, parameters: Sequence[torch.nn.Parameter]) -> None:
        """`parameters`: those that are trained, in the optimiser's order, as they are sharded. Raises `ConfigError`."""
        self._shadows = Shadows(config, parameters)
        self._curves = AgeCurves()

    def observe(self, tokens: LossTokens, step: int) -> None:
        """Add a micro-batch; before its own backward pass, which frees the graph."""
        self._shadows.observe(tokens, step)
        columns = (tokens.policy.detach(), tokens.behaviour, tokens.advantages)
        self._curves.add(tokens.ages.cpu().numpy(), *(column.double().cpu().numpy() for column in columns))

    def keep_pace(self, logprobs: torch.Tensor, step: int) -> None:
        """Make the backward passes of `observe` without weight: for a process that has no micro-batch left while others
        have one (shards need it). `logprobs` [T]: of a forward pass, before its own backward pass."""
        self._shadows.keep_pace(logprobs, step)

    def reduce(self, add_up: Callable[[list[torch.Tensor]], None], step: int) -> None:
        """Add gradient sums up over processes, in place; once an update, before `compare`. Not for shards (FSDP2)."""
        self._shadows.reduce(add_up, step)

    def compare(self, used: Sequence[torch.Tensor], step: int) -> None:
        """Compare gradients with the used sums; once an update, before clipping."""
        self._shadows.compare(used, step)

    def reduce_figures(self, add_up: Callable[[list[torch.Tensor]], None], device: torch.device) -> None:
        """Add everything else up over processes; once a step, before `finish`, sharded or not."""
        self._shadows.reduce_figures(add_up)
        curves = torch.from_numpy(self._curves.sums).to(device, copy=True)
        add_up([curves])
        self._curves.sums = curves.cpu().numpy()

    def finish(self) -> dict[str, float]:
        """Return the step's metrics, and begin the next step."""
        values = {**self._shadows.finish(), **self._curves.metrics()}
        self._curves = AgeCurves()
        return values
