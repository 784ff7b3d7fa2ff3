"""AdamW by hand on one number, weight-decay groups, and a state that goes on elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from darts_async.config.schema import LearnerSection

if TYPE_CHECKING:
    from darts_async.engines.optimiser import StepOptimiser, Update

pytestmark = pytest.mark.torch


def _parameters(dtype: str = "float32") -> dict[str, Any]:
    import torch

    values = {"matrix": [[1.0, -2.0]], "bias": [0.5], "scale": 2.0}
    return {
        name: torch.nn.Parameter(torch.tensor(value, dtype=getattr(torch, dtype))) for name, value in values.items()
    }


def _optimiser(parameters: dict[str, Any], steps: int = 10, **settings: Any) -> StepOptimiser:
    from darts_async.engines.optimiser import StepOptimiser

    return StepOptimiser(parameters.items(), LearnerSection.model_validate(settings), steps=steps)


def _update(optimiser: StepOptimiser, parameters: dict[str, Any], slopes: Sequence[float], step: int) -> Update:
    import torch

    sum((p * slope).sum() for p, slope in zip(parameters.values(), slopes, strict=True)).backward()  # type: ignore[union-attr]
    optimiser.collect()
    return optimiser.apply(denominator=2.0, loss=1.0, step=step, clip=torch.nn.utils.clip_grad_norm_)


def test_two_updates_by_hand() -> None:
    """Loss 3 b over denominator 2: gradient 1.5, then -0.5; bias-corrected moments written out."""
    parameters = _parameters()
    optimiser = _optimiser(parameters, lr=0.1, lr_schedule="linear", steps=2, max_grad_norm=1e9)
    assert _update(optimiser, parameters, (0, 3, 0), 0).lr == pytest.approx(0.1)
    assert parameters["bias"].item() == pytest.approx(0.4, rel=1e-6)  # the first step is lr times the sign
    assert _update(optimiser, parameters, (0, -1, 0), 1).lr == pytest.approx(0.05)
    first = (0.9 * 0.1 * 1.5 + 0.1 * -0.5) / (1 - 0.9**2)
    second = (0.999 * 0.001 * 1.5**2 + 0.001 * 0.5**2) / (1 - 0.999**2)
    assert parameters["bias"].item() == pytest.approx(0.4 - 0.05 * first / math.sqrt(second), rel=1e-6)


def test_decay_is_for_matrices_alone() -> None:
    parameters = _parameters()
    optimiser = _optimiser(parameters, lr=0.1, weight_decay=0.5)
    _update(optimiser, parameters, (0, 0, 0), 0)  # no gradient: what moves is decay, by the factor 1 - lr * decay
    assert parameters["matrix"].tolist() == [pytest.approx([0.95, -1.9])]
    assert parameters["bias"].item() == 0.5 and parameters["scale"].item() == 2.0


def test_gradients_are_clipped_to_the_norm() -> None:
    parameters = _parameters()
    optimiser = _optimiser(parameters, lr=0.0, max_grad_norm=1.0)
    # over denominator 2: (3, 3) on the matrix, 0 and 4: norm sqrt(9 + 9 + 16)
    assert _update(optimiser, parameters, (6, 0, 8), 0).grad_norm == pytest.approx(math.sqrt(34))
    assert optimiser.state_dict()["scale.exp_avg"].item() == pytest.approx(0.1 * 4 / math.sqrt(34), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_goes_on_in_another_optimiser(dtype: str) -> None:
    import torch

    here, there = _parameters(dtype), _parameters(dtype)
    settings = {"lr": 1e-3, "weight_decay": 0.1, "max_grad_norm": 1e9}
    one, other = _optimiser(here, **settings), _optimiser(there, **settings)
    for step in range(3):
        _update(one, here, (1.0, -0.3 * step, 0.1), step)
    state = {name: value.clone() for name, value in one.state_dict().items()}
    expected = {f"{name}.{key}" for name in here for key in ("exp_avg", "exp_avg_sq", "step")}
    assert state.keys() == expected | ({f"{name}.master" for name in here} if dtype == "bfloat16" else set())
    for name in here:
        there[name].data.copy_(here[name].data)
    other.load_state_dict(state)
    for step in range(3, 6):
        _update(one, here, (0.5, 0.2, -1.0), step)
        _update(other, there, (0.5, 0.2, -1.0), step)
    after, copied = one.state_dict(), other.state_dict()
    assert all(torch.equal(after[name], copied[name]) for name in after)
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert not torch.equal(after["bias.exp_avg"], state["bias.exp_avg"])


def test_a_state_of_another_model_is_refused() -> None:
    import torch

    parameters = _parameters()
    optimiser = _optimiser(parameters, lr=0.1)
    _update(optimiser, parameters, (1, 1, 1), 0)
    good = optimiser.state_dict()
    bad = {
        "matrix.exp_avg has shape": {**good, "matrix.exp_avg": torch.zeros(3)},
        "bias.exp_avg_sq is missing": {k: v for k, v in good.items() if k != "bias.exp_avg_sq"},
        "other.step is not of this model": {**good, "other.step": torch.zeros(())},
    }
    for message, state in bad.items():
        with pytest.raises(ValueError, match=message):
            optimiser.load_state_dict(state)
    optimiser.load_state_dict({})  # of an optimiser that has not stepped yet
    assert optimiser.state_dict() == {}
