"""What other pairs of loss and correction would have made of the batches that are trained on.

It must never touch the step: no parameter, gradient, graph or random number of the used objective is changed by it, so
weights are bit for bit those of a run without shadows. Invariants: figures are sums over tokens, and a shadow's
gradient is summed in float32 or wider over all micro-batches as the used one is, so neither depends on how the step was
split; steps that do not compare gradients cost work on log-probs alone, no pass through the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from darts_async.config.shadows import pair_name
from darts_async.engines.aggregation import denominator, weighted_sum
from darts_async.engines.losses import find_loss
from darts_async.engines.objective import regularised, terms
from darts_async.engines.sharded import whole

if TYPE_CHECKING:
    from darts_async.config import Config
    from darts_async.engines.loss_tokens import LossTokens

__all__ = ["Shadows"]

_SUMS: Final = (
    "tokens",
    "signal",
    "clipped",
    "masked",
    "capped",
    "loss",
    "denominator",
    "kl",
    "kl_k1",
    "factor",
    "factor_square",
)


_FRACTIONS: Final = (("clip", "clipped"), ("masked", "masked"), ("capped", "capped"))


@dataclass(slots=True)
class _Pair:
    loss: str
    correction: str | Sequence[str]
    gradient: list[torch.Tensor] = field(default_factory=list)
    """float32 or wider, one per parameter: the sums since the last comparison; empty on steps that do not compare."""
    cosines: list[float] = field(default_factory=list)
    """One for each update of the step."""

    @property
    def name(self) -> str:
        return pair_name(self.loss, self.correction)


class Shadows:
    """The pairs of `learner.shadow`, and the used pair for the figures that only this module has."""

    def __init__(self, config: Config, parameters: Sequence[torch.nn.Parameter]) -> None:
        """`parameters`: those that are trained, in the optimiser's order, as they are sharded. Raises `ConfigError`."""
        self._config = config
        self._parameters = list(parameters)
        settings = config.learner
        self._used = _Pair(settings.loss, settings.correction)
        self._pairs = [_Pair(shadow.loss, shadow.correction) for shadow in settings.shadow]
        for index, pair in enumerate(self._pairs):
            find_loss(pair.loss, f"learner.shadow.{index}.loss")  # a path that cannot be loaded is told now
        self._sums = self._no_sums()

    def compares(self, step: int) -> bool:
        """Whether gradients are compared in the step that starts from policy version `step`."""
        return bool(self._pairs) and step % self._config.learner.shadow_every == 0

    def observe(self, tokens: LossTokens, step: int) -> None:
        """Add a micro-batch; before its own backward pass, which frees the graph."""
        rows = []
        for pair in (self._used, *self._pairs):
            compare = pair is not self._used and self.compares(step)
            figures, slopes = self._evaluate(pair, tokens, slopes=compare)
            rows.append(figures)
            if slopes:
                outputs = [tokens.policy] if tokens.entropy is None else [tokens.policy, tokens.entropy]
                self._collect(pair, outputs, slopes)
        self._sums += torch.stack(rows)

    def keep_pace(self, logprobs: torch.Tensor, step: int) -> None:
        """Make the backward passes of `observe` with zeros, for a process that has no micro-batch left: with shards all
        processes must make equally many. `logprobs` [T]: of a forward pass, before its own backward pass."""
        if self.compares(step):
            for pair in self._pairs:
                self._collect(pair, [logprobs], (torch.zeros_like(logprobs),))

    def reduce(self, add_up: Callable[[list[torch.Tensor]], None], step: int) -> None:
        """Have `add_up` replace gradient sums, in place, by those over all processes. Once an update, before `compare`.

        Not for shards (FSDP2), whose backward pass has added them up. Every process makes the same call.
        """
        if self.compares(step):
            for pair in self._pairs:
                pair.gradient = pair.gradient or self._zeros()
                add_up(pair.gradient)

    def reduce_figures(self, add_up: Callable[[list[torch.Tensor]], None]) -> None:
        """The same for the sums over tokens. Once a step, before `finish`, with shards too."""
        add_up([self._sums])

    def compare(self, used: Sequence[torch.Tensor], step: int) -> None:
        """Compare with the used gradient sums, before they are clipped, at each update; then forget the shadows' sums.

        A factor common to all of a gradient, as the loss's denominator, does not matter to the cosine.
        """
        if not self.compares(step):
            return
        for pair in self._pairs:
            pair.cosines.append(_cosine(used, pair.gradient or self._zeros()))
            pair.gradient = []

    def finish(self) -> dict[str, float]:
        """Return the step's metrics and begin the next step. What was not measured is left out.

        `shadow/<pair>/`: `loss` as `learner/loss` would be without regularisers; `clip_fraction`, `masked_fraction`,
        `capped_fraction` of the tokens; `kl` and `kl_k1`, the k3 and k1 estimates of KL(mu || pi) over tokens that are
        not masked; `cosine` of the gradient to the used one (mean over the step's updates; regularisers included in
        both); `ess`, the effective sample size `(sum f)^2 / (n sum f^2)` (Kish 1965) of the factors f that the pair
        puts on `advantage * grad log pi` of the n tokens that have an advantage. So clipped and masked tokens (f = 0)
        count as lost, unlike in `learner/ess`, which is that of the uncorrected weights. `learner/ess_corrected`: `ess`
        of the used pair.
        """
        values: dict[str, float] = {}
        for pair, row in zip((self._used, *self._pairs), self._sums.tolist(), strict=True):
            figures = _means(dict(zip(_SUMS, row, strict=True)))
            if pair is self._used:
                values |= {"learner/ess_corrected": figures["ess"]} if "ess" in figures else {}
                continue
            if pair.cosines:
                figures["cosine"] = sum(pair.cosines) / len(pair.cosines)
                pair.cosines = []
            values |= {f"shadow/{pair.name}/{figure}": value for figure, value in figures.items()}
        self._sums = self._no_sums()
        return values

    # --- one pair -------------------------------------------------------------------------------------------------

    def _evaluate(
        self, pair: _Pair, tokens: LossTokens, *, slopes: bool
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return the figures' sums and, if asked for, d objective / d (log-probs, entropies), each [T].

        On copies of log-probs and entropies that are cut from the model's graph.
        """
        cut = [tokens.policy.detach().requires_grad_()]
        if tokens.entropy is not None:
            cut.append(tokens.entropy.detach().requires_grad_())
        seen = dataclasses.replace(tokens, policy=cut[0], entropy=cut[1] if len(cut) > 1 else None)
        found, reference = terms(seen, pair.loss, pair.correction, self._config.learner)
        (slope,) = torch.autograd.grad(found.losses.sum(), cut[0], retain_graph=slopes, materialize_grads=True)
        with torch.no_grad():
            signal = tokens.advantages != 0
            factor = torch.where(signal, -slope.double() / tokens.advantages, 0.0)
            kept = ~reference.masked
            difference = torch.where(kept, tokens.policy.double() - tokens.behaviour.double(), 0.0)
            figures = torch.stack(
                [
                    tokens.policy.new_tensor(tokens.policy.numel(), dtype=torch.float64),
                    signal.sum(),
                    found.clipped.sum(),
                    reference.masked.sum(),
                    reference.capped.sum(),
                    weighted_sum(found.losses.double(), tokens, self._config),
                    tokens.policy.new_tensor(denominator(tokens, self._config), dtype=torch.float64),
                    (torch.expm1(difference) - difference).sum(),
                    -difference.sum(),
                    factor.sum(),
                    factor.square().sum(),
                ]
            )
        if not slopes:
            return figures, ()
        losses = regularised(found.losses, seen, reference, self._config.learner)
        total = weighted_sum(losses, tokens, self._config)
        return figures, torch.autograd.grad(total, cut, materialize_grads=True)

    def _collect(self, pair: _Pair, outputs: Sequence[torch.Tensor], slopes: Sequence[torch.Tensor]) -> None:
        """Add the micro-batch's gradient to the pair's sums, past the used gradients, which are put back untouched.

        Through `.grad` and not `autograd.grad`, since gradients of shards (FSDP2) exist nowhere else.
        """
        used = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        try:
            torch.autograd.backward(outputs, slopes, retain_graph=True)
            pair.gradient = pair.gradient or self._zeros()
            for total, parameter in zip(pair.gradient, self._parameters, strict=True):
                if parameter.grad is not None:
                    total.add_(parameter.grad)
        finally:
            for parameter, gradient in zip(self._parameters, used, strict=True):
                parameter.grad = gradient

    def _zeros(self) -> list[torch.Tensor]:
        return [
            torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
            for parameter in self._parameters
        ]

    def _no_sums(self) -> torch.Tensor:
        device = self._parameters[0].device if self._parameters else "cpu"
        return torch.zeros(1 + len(self._pairs), len(_SUMS), dtype=torch.float64, device=device)


def _means(sums: dict[str, float]) -> dict[str, float]:
    tokens, kept = sums["tokens"], sums["tokens"] - sums["masked"]
    figures: dict[str, float] = {}
    if tokens:
        figures = {f"{part}_fraction": sums[name] / tokens for part, name in _FRACTIONS}
        figures["loss"] = sums["loss"] / sums["denominator"]
    if kept:
        figures |= {name: sums[name] / kept for name in ("kl", "kl_k1")}
    if sums["signal"]:
        square = sums["signal"] * sums["factor_square"]
        figures["ess"] = sums["factor"] ** 2 / square if square else 0.0  # 0: all is masked or clipped
    return figures


def _cosine(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    """Over all parameters as one vector; NaN when one of them is zero or not finite."""
    dot, norms = _dot(first, second), _dot(first, first) * _dot(second, second)
    return dot / math.sqrt(norms) if norms > 0 else math.nan


def _dot(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    return sum(float(whole((a * b).sum(dtype=torch.float64))) for a, b in zip(first, second, strict=True))
