"""The update: gradient sums in, one AdamW step out, or none if a number is not finite.

Invariants: gradients are summed in float32 and divided once by their loss's denominator, so an update does not depend
on how its groups were split; weights and optimiser state are untouched by an update that is skipped. Everything here
holds for sharded parameters (FSDP2) too; then all processes make the same calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from darts_async.algorithms.learning_rate import learning_rate
from darts_async.engines.sharded import like, whole

if TYPE_CHECKING:
    from darts_async.config.schema import LearnerSection

BETAS = (0.9, 0.999)
"""AdamW's: PyTorch's defaults, which verl and TRL keep for RL too."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


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
    """AdamW over float32 master weights, which are the model's own parameters where those are float32 or wider.

    Weights of a lower precision would swallow updates of a small learning rate (bfloat16 keeps 8 bits), so the masters
    and the gradient sums are kept beside them. Weight decay is for parameters of two and more dimensions: biases and
    the gains of norms are left alone.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, torch.nn.Parameter]], settings: LearnerSection, *, steps: int
    ) -> None:
        """Take named parameters (those that want a gradient are trained) and the run's number of steps."""
        self._settings = settings
        self._steps = steps
        named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        self._names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        self._masters = [
            parameter
            if parameter.dtype in {torch.float32, torch.float64}
            else torch.nn.Parameter(parameter.detach().to(torch.float32, copy=True))
            for parameter in self._parameters
        ]
        self._copies = [(p, m) for p, m in zip(self._parameters, self._masters, strict=True) if p is not m]
        decayed = [master for master in self._masters if master.ndim >= 2]
        plain = [master for master in self._masters if master.ndim < 2]
        groups = [
            {"params": members, "weight_decay": decay}
            for members, decay in ((decayed, settings.weight_decay), (plain, 0.0))
            if members
        ]
        self._adamw = torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS)

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The float32 gradient sums so far, zeros where nothing has arrived; one per parameter."""
        return [torch.zeros_like(m) if m.grad is None else m.grad for m in self._masters]

    def collect(self) -> None:
        """Fold the gradients of a backward pass into the sums (a no-op for float32 models)."""
        for parameter, master in self._copies:
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def drop(self) -> None:
        """Forget the gradients so far."""
        for parameter in (*self._parameters, *self._masters):
            parameter.grad = None

    def reduce(self, add_up: Callable[[list[torch.Tensor]], None]) -> None:
        """Have `add_up` replace the sums, in place, by those over all processes; zeros where nothing has arrived."""
        gradients = self.gradients
        add_up(gradients)
        for master, gradient in zip(self._masters, gradients, strict=True):
            master.grad = gradient

    def learning_rate(self, step: int) -> float:
        """The rate of the step that starts from policy version `step`."""
        settings = self._settings
        return learning_rate(
            step,
            peak=settings.lr,
            schedule=settings.lr_schedule,
            warmup_steps=settings.warmup_steps,
            steps=self._steps,
            min_ratio=settings.lr_min_ratio,
        )

    def apply(self, *, denominator: float, loss: float, step: int, clip: Callable[..., torch.Tensor]) -> Update:
        """Divide by the denominator, clip, check, step. `clip(parameters, max_norm)` returns the norm before."""
        lr = self.learning_rate(step)
        gradients = [master.grad for master in self._masters if master.grad is not None]
        if denominator <= 0 or not gradients:
            self.drop()
            return Update(applied=False, finite=math.isfinite(loss), grad_norm=0.0, lr=lr)
        torch._foreach_mul_(gradients, 1.0 / denominator)
        norm = float(whole(clip(self._masters, self._settings.max_grad_norm)))
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            for group in self._adamw.param_groups:
                group["lr"] = lr
            self._adamw.step()
            self._copy_masters()
        self.drop()
        return Update(applied=finite, finite=finite, grad_norm=norm, lr=lr)

    def _copy_masters(self) -> None:
        with torch.no_grad():
            for parameter, master in self._copies:
                parameter.copy_(master)

    # --- what a checkpoint needs to go on from ----------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return AdamW's moments and step counts, and the masters where they are not the parameters themselves.

        Flat: `<parameter>.exp_avg`, `.exp_avg_sq` (float32, the parameter's shape), `.step` (scalar), `.master`; only
        masters before the first update. Whole tensors, also of shards; those that are not share memory with the
        optimiser. The schedule has no state: it follows from the policy version.
        """
        state: dict[str, torch.Tensor] = {}
        for name, parameter, master in zip(self._names, self._parameters, self._masters, strict=True):
            for key, value in self._adamw.state.get(master, {}).items():
                state[f"{name}.{key}"] = whole(value)
            if master is not parameter:
                state[f"{name}.master"] = whole(master.detach())
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a `state_dict`. Raises `ValueError` when it is of another model; then nothing has changed."""
        entries: list[dict[str, torch.Tensor]] = []
        known: set[str] = set()
        for name, parameter, master in zip(self._names, self._parameters, self._masters, strict=True):
            wanted = [*_MOMENTS, "step"] if f"{name}.step" in state else []
            if master is not parameter:
                wanted.append("master")
            entry: dict[str, torch.Tensor] = {}
            for key in wanted:
                shape = () if key == "step" else tuple(master.shape)
                value = state.get(f"{name}.{key}")
                if value is None or tuple(value.shape) != shape:
                    found = "is missing" if value is None else f"has shape {tuple(value.shape)}"
                    raise ValueError(f"optimiser state: {name}.{key} {found} where shape {shape} is due")
                entry[key] = value
            entries.append(entry)
            known |= {f"{name}.{key}" for key in wanted}
        if unknown := sorted(state.keys() - known):
            raise ValueError(f"optimiser state: {unknown[0]} is not of this model ({len(unknown)} such entries)")
        self._adamw.state.clear()
        with torch.no_grad():
            for master, entry in zip(self._masters, entries, strict=True):
                if "master" in entry:
                    master.copy_(like(entry["master"], master))
                if "step" in entry:
                    moments = {key: like(entry[key], master.detach()) for key in _MOMENTS}
                    self._adamw.state[master] = {"step": entry["step"].to("cpu", torch.float32, copy=True), **moments}
        self._copy_masters()
