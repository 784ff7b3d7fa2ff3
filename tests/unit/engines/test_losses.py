"""Each loss by hand: values and gradients on a few tokens whose ratios are chosen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from darts_async.config.choices import LOSSES as LOSS_NAMES
from darts_async.config.schema import LearnerSection

if TYPE_CHECKING:
    from darts_async.engines.loss_tokens import LossTokens

pytestmark = pytest.mark.torch


def _tokens(ratios: list[float], advantages: list[float], lengths: list[int], old: float = -2.0) -> LossTokens:
    """Tokens whose old log-prob is `old` and whose policy has the given ratios to it, in float64."""
    import torch

    from darts_async.engines.loss_tokens import LossTokens

    counts = torch.tensor(lengths)
    behaviour = torch.full((len(ratios),), old, dtype=torch.float64)
    policy = (behaviour + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    return LossTokens(
        policy=policy,
        behaviour=behaviour,
        proximal=behaviour,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        responses=torch.repeat_interleave(torch.arange(len(lengths)), counts),
        lengths=counts,
        ages=torch.zeros(len(ratios), dtype=torch.int64),
        current=torch.ones(len(ratios), dtype=torch.bool),
    )


def _run(name: str, tokens: LossTokens, settings: LearnerSection) -> tuple[list[float], list[float], list[bool]]:
    """Losses, their gradients with respect to the tokens' log-probs, and what was clipped."""
    import torch

    from darts_async.engines.corrections import correct
    from darts_async.engines.losses import LOSSES

    terms = LOSSES[name](tokens, correct(tokens, ("none",), settings), settings)
    (gradient,) = torch.autograd.grad(terms.losses.sum(), tokens.policy)
    return terms.losses.tolist(), gradient.tolist(), terms.clipped.tolist()


def test_the_registry_has_the_names_that_the_config_knows() -> None:
    from darts_async.engines.losses import LOSSES

    assert tuple(LOSSES) == LOSS_NAMES


def test_ppo_clip_takes_the_gradient_outside_the_bounds_on_the_profitable_side_only() -> None:
    ratios, advantages = [1.0, 1.2, 1.5, 0.5, 0.9, 0.5, 1.5], [2.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    losses, gradient, clipped = _run("ppo_clip", _tokens(ratios, advantages, [7]), LearnerSection())
    # -min(r A, clip(r, 0.8, 1.28) A); the derivative by log pi of r A is r A
    assert losses == pytest.approx([-2.0, -1.2, -1.28, -0.5, 0.9, 0.8, 1.5])
    assert gradient == pytest.approx([-2.0, -1.2, 0.0, -0.5, 0.9, 0.0, 1.5])
    assert clipped == [False, False, True, False, False, True, False]


def test_dual_clip_bounds_negative_advantages_alone() -> None:
    tokens = _tokens([10.0, 10.0, 2.0], [-1.0, 1.0, -1.0], [3])
    losses, gradient, clipped = _run("ppo_clip", tokens, LearnerSection(dual_clip=3.0))
    assert losses == pytest.approx([3.0, -1.28, 2.0])
    assert gradient == pytest.approx([0.0, 0.0, 2.0])
    assert clipped == [True, True, False]
    assert _run("ppo_clip", tokens, LearnerSection())[0] == pytest.approx([10.0, -1.28, 2.0])


def test_gspo_has_one_ratio_a_response() -> None:
    settings = LearnerSection(gspo_clip_low=0.2, gspo_clip_high=0.28)
    # geometric means: sqrt(4 * 0.25) = 1; sqrt(2 * 2) = 2; 0.5; (0.5 * 0.5 * 4)^(1/3) = 1
    ratios = [4.0, 0.25, 2.0, 2.0, 0.5, 0.5, 0.5, 4.0]
    advantages = [3.0, 3.0, 1.0, 1.0, -1.0, -2.0, -2.0, -2.0]
    losses, gradient, clipped = _run("gspo", _tokens(ratios, advantages, [2, 2, 1, 3]), settings)
    assert losses == pytest.approx([-3.0, -3.0, -1.28, -1.28, 0.8, 2.0, 2.0, 2.0])
    # -s A for each token of a response that is not clipped, whatever the token's own ratio
    assert gradient == pytest.approx([-3.0, -3.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0])
    assert clipped == [False, False, True, True, True, False, False, False]


def test_cispo_cuts_weights_and_keeps_every_gradient() -> None:
    settings = LearnerSection(cispo_clip_high=1.0)
    tokens = _tokens([0.1, 1.0, 1.9, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0, -2.0], [5])
    losses, gradient, clipped = _run("cispo", tokens, settings)
    weights = [0.1, 1.0, 1.9, 2.0, 2.0]
    logs = [-2.0 + math.log(ratio) for ratio in (0.1, 1.0, 1.9, 3.0, 3.0)]
    advantages = [1.0, 1.0, 1.0, 1.0, -2.0]
    assert gradient == pytest.approx([-w * a for w, a in zip(weights, advantages, strict=True)])
    assert losses == pytest.approx([-w * a * p for w, a, p in zip(weights, advantages, logs, strict=True)])
    assert clipped == [False, False, False, True, True]


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_on_policy_all_have_the_policy_gradient(name: str) -> None:
    _, gradient, clipped = _run(name, _tokens([1.0, 1.0, 1.0], [0.5, 0.5, -2.0], [2, 1]), LearnerSection())
    assert gradient == pytest.approx([-0.5, -0.5, 2.0])
    assert not any(clipped)
