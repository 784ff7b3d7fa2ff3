"""A loss of the user's own, from a real file, through the objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darts_async.config import Config
from darts_async.errors import ConfigError

pytestmark = pytest.mark.torch

SOURCE = """
import torch
from darts_async.engines.loss_terms import LossTerms

def reinforce(tokens, reference, settings):
    return -tokens.advantages * tokens.policy

def halved(tokens, reference, settings):
    return LossTerms(-0.5 * tokens.advantages * tokens.policy, tokens.advantages < 0)

def summed(tokens, reference, settings):
    return (-tokens.advantages * tokens.policy).sum()

def number(tokens, reference, settings):
    return 1.0

def loose(tokens, reference, settings):
    return -tokens.advantages * tokens.policy.detach()

def floats(tokens, reference, settings):
    return LossTerms(-tokens.policy, tokens.advantages)

def broken(tokens, reference, settings):
    return tokens.nonsense
"""


def _gradient(loss: str) -> tuple[list[float], dict[str, float]]:
    """Gradient of the objective with TIS: weights 1, 2 (capped from 4), 0.5; advantages 1, 1, -2."""
    import torch

    from darts_async.engines.loss_tokens import LossTokens
    from darts_async.engines.objective import Objective

    policy = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    tokens = LossTokens(
        policy=policy,
        behaviour=policy.detach() - torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64).log(),
        proximal=policy.detach(),
        advantages=torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64),
        responses=torch.tensor([0, 0, 1]),
        lengths=torch.tensor([2, 1]),
        ages=torch.zeros(3, dtype=torch.int64),
        current=torch.ones(3, dtype=torch.bool),
    )
    settings: dict[str, Any] = {"loss": loss, "correction": "tis"}
    total, sums = Objective(Config.model_validate({"learner": settings}))(tokens)
    return torch.autograd.grad(total, policy)[0].tolist(), sums.metrics()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_losses.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return "my_losses.py"


def test_it_is_weighted_by_the_objective(file: str) -> None:
    gradient, metrics = _gradient(f"{file}:reinforce")
    assert gradient == pytest.approx([-1.0, -2.0, 1.0])
    assert metrics["learner/clip_fraction"] == 0.0
    gradient, metrics = _gradient(f"{file}:halved")
    assert gradient == pytest.approx([-0.5, -1.0, 0.5])
    assert metrics["learner/clip_fraction"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("summed", r"`losses` of shape \[3\].*not \[\]"),
        ("number", "LossTerms or a tensor, not float"),
        ("loose", "without a gradient"),
        ("floats", "`clipped` of type bool, not torch.float64"),
        ("broken", r"raised AttributeError.*my_losses.py, line 24"),
        ("absent", "`absent` is not there"),
    ],
)
def test_what_breaks_the_contract_is_said(file: str, name: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        _gradient(f"{file}:{name}")
    assert (caught.value.key, caught.value.value) == ("learner.loss", f"{file}:{name}")
