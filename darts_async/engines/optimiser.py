"""The update: gradient sums of a whole step in, one AdamW step out, or none if a number is not finite.

Invariants: gradients are summed in float32 over the step and divided once by its loss tokens, so the update does not
depend on how the step was split; weights and optimiser state are untouched by a step that is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection

BETAS = (0.9, 0.999)
"""AdamW's: PyTorch's defaults, which verl and TRL keep for RL too."""


@dataclass(frozen=True, slots=True)
class Update:
    """What happened to the weights."""

    applied: bool
    """The optimiser stepped. False without loss tokens, and when a number was not finite."""
    finite: bool
    grad_norm: float
    """Norm of the mean gradient before clipping."""
    lr: float


class StepOptimiser:
    """AdamW over float32 master weights, which are the model's own parameters where those are float32.

    Weights of a lower precision would swallow updates of a small learning rate (bfloat16 keeps 8 bits), so the masters
    and the gradient sums are kept beside them.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], settings: LearnerSection) -> None:
        self._settings = settings
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._masters = [
            parameter
            if parameter.dtype == torch.float32
            else torch.nn.Parameter(parameter.detach().to(torch.float32, copy=True))
            for parameter in self._parameters
        ]
        self._copies = [(p, m) for p, m in zip(self._parameters, self._masters, strict=True) if p is not m]
        self._adamw = torch.optim.AdamW(self._masters, lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay)

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The float32 gradient sums so far, zeros where nothing has arrived; one per parameter."""
        return [torch.zeros_like(m) if m.grad is None else m.grad for m in self._masters]

    def collect(self) -> None:
        """Fold the gradients of a backward pass into the step's sums (a no-op for float32 models)."""
        for parameter, master in self._copies:
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def drop(self) -> None:
        """Forget the gradients of an unfinished step."""
        for parameter in (*self._parameters, *self._masters):
            parameter.grad = None

    def learning_rate(self, step: int) -> float:
        """Linear from lr / warmup_steps at step 0 to lr, constant afterwards: no step is spent at rate 0."""
        warmup = self._settings.warmup_steps
        return self._settings.lr * min(1.0, (step + 1) / warmup) if warmup else self._settings.lr

    def apply(self, *, denominator: float, loss: float, step: int, clip: Callable[..., torch.Tensor]) -> Update:
        """Divide by the denominator, clip, check, step. `clip(parameters, max_norm)` returns the norm before."""
        lr = self.learning_rate(step)
        gradients = [master.grad for master in self._masters if master.grad is not None]
        if denominator <= 0 or not gradients:
            self.drop()
            return Update(applied=False, finite=math.isfinite(loss), grad_norm=0.0, lr=lr)
        torch._foreach_mul_(gradients, 1.0 / denominator)
        norm = float(clip(self._masters, self._settings.max_grad_norm))
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            for group in self._adamw.param_groups:
                group["lr"] = lr
            self._adamw.step()
            with torch.no_grad():
                for parameter, master in self._copies:
                    parameter.copy_(master)
        self.drop()
        return Update(applied=finite, finite=finite, grad_norm=norm, lr=lr)
