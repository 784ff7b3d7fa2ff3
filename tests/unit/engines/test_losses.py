"""Losses and corrections against closed forms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from darts_async.config.schema import LearnerSection

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch


def _t(*values: float) -> torch.Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float32)


def _gradient(
    ratio: list[float], advantages: list[float], settings: LearnerSection
) -> tuple[float, list[float], dict[str, float]]:
    """Loss sum, its gradient with respect to the policy's log-probs, diagnostics; behaviour log-prob is -2."""
    import torch

    from darts_async.engines.losses import loss_sum

    behaviour = torch.full((len(ratio),), -2.0)
    policy = (behaviour + torch.log(_t(*ratio))).requires_grad_()
    loss, sums = loss_sum(policy, behaviour, _t(*advantages), torch.ones(len(ratio), dtype=torch.bool), settings)
    loss.backward()
    assert policy.grad is not None
    return float(loss.detach()), policy.grad.tolist(), sums.metrics()


def test_token_logprobs_by_hand() -> None:
    import torch

    from darts_async.engines.losses import token_logprobs

    # softmax of (0, ln 3) is (1/4, 3/4); at temperature 0.5 the logits double: (1/10, 9/10)
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.bfloat16).float()
    targets = torch.tensor([0, 1])
    assert token_logprobs(logits, targets, 1.0).exp().tolist() == pytest.approx([0.25, 0.75], rel=1e-2)
    assert token_logprobs(logits, targets, 0.5).exp().tolist() == pytest.approx([0.1, 0.9], rel=2e-2)


def test_token_logprobs_are_float32_whatever_the_logits() -> None:
    import torch

    from darts_async.engines.losses import token_logprobs

    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    targets = torch.arange(5)
    got = token_logprobs(logits, targets, 0.7)
    expected = torch.log_softmax(logits.double() / 0.7, dim=-1)[torch.arange(5), targets]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-6)


def test_none_is_ppo_clip_on_policy_over_behaviour() -> None:
    settings = LearnerSection(correction="none")
    ratio = [1.0, 1.2, 1.5, 0.9, 0.5, 1.5]
    advantages = [2.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    # -min(r A, clip(r, .8, 1.28) A); the third and the fifth are outside and get no gradient, the last one does
    losses = [-2.0, -1.2, -1.28, 0.9, 0.8, 1.5]
    loss, gradient, metrics = _gradient(ratio, advantages, settings)
    assert loss == pytest.approx(sum(losses), rel=1e-5)
    assert gradient == pytest.approx([-2.0, -1.2, 0.0, 0.9, 0.0, 1.5], rel=1e-5)  # -A r where not clipped
    assert metrics["learner/clip_fraction"] == pytest.approx(2 / 6)
    assert metrics["learner/tis_capped_fraction"] == 0.0


def test_tis_weighs_once_and_never_clips() -> None:
    settings = LearnerSection(correction="tis", tis_cap=2.0)
    ratio = [1.0, 0.5, 1.5, 4.0, 4.0]
    advantages = [1.0, 1.0, 1.0, 1.0, -3.0]
    weights = [1.0, 0.5, 1.5, 2.0, 2.0]
    expected = [-w * a for w, a in zip(weights, advantages, strict=True)]
    loss, gradient, metrics = _gradient(ratio, advantages, settings)
    assert loss == pytest.approx(sum(expected), rel=1e-5)
    assert gradient == pytest.approx(expected, rel=1e-5)  # -min(pi / mu, cap) A, not its square
    assert metrics["learner/clip_fraction"] == 0.0
    assert metrics["learner/tis_capped_fraction"] == pytest.approx(2 / 5)
    assert metrics["learner/ratio_max"] == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("correction", ["none", "tis"])
def test_on_policy_both_are_the_policy_gradient(correction: str) -> None:
    settings = LearnerSection.model_validate({"correction": correction})
    loss, gradient, metrics = _gradient([1.0, 1.0], [0.5, -2.0], settings)
    assert loss == pytest.approx(1.5)
    assert gradient == pytest.approx([-0.5, 2.0])
    assert metrics["mismatch_kl"] == pytest.approx(0.0, abs=1e-7)


def test_dual_clip_bounds_negative_advantages() -> None:
    from darts_async.engines.losses import ppo_clip

    policy, old = _t(math.log(10.0), math.log(10.0), math.log(2.0)), _t(0, 0, 0)
    terms = ppo_clip(policy, old, _t(-1, 1, -1), clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    assert terms.losses.tolist() == pytest.approx([3.0, -1.28, 2.0])
    assert terms.clipped.tolist() == [True, True, False]
    free = ppo_clip(policy, old, _t(-1, 1, -1), clip_low=0.2, clip_high=0.28)
    assert free.losses.tolist() == pytest.approx([10.0, -1.28, 2.0])


def test_mismatch_kl_is_k3_and_differences_are_of_the_same_version_only() -> None:
    import torch

    from darts_async.engines.losses import loss_sum

    behaviour = _t(-1.0, -1.0, -1.0)
    policy = _t(-1.5, -1.0, 0.0)
    current = torch.tensor([True, True, False])
    _, sums = loss_sum(policy, behaviour, _t(1, 1, 1), current, LearnerSection())
    k3 = [math.exp(-0.5) - 1 + 0.5, 0.0, math.e - 1 - 1]
    metrics = sums.metrics()
    assert metrics["mismatch_kl"] == pytest.approx(sum(k3) / 3, rel=1e-5)
    assert metrics["learner/logprob_diff_mean"] == pytest.approx(0.25)
    assert metrics["learner/logprob_diff_max"] == pytest.approx(0.5)
    _, sums = loss_sum(policy, behaviour, _t(1, 1, 1), torch.zeros(3, dtype=torch.bool), LearnerSection())
    assert "learner/logprob_diff_mean" not in sums.metrics()


@pytest.mark.parametrize("correction", ["none", "tis"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_log_prob_that_is_not_finite_is_never_capped_away(correction: str, bad: float) -> None:
    import torch

    from darts_async.engines.losses import loss_sum

    settings = LearnerSection.model_validate({"correction": correction})
    loss, sums = loss_sum(_t(-1, -1), _t(-1, bad), _t(1, 1), torch.ones(2, dtype=torch.bool), settings)
    assert math.isnan(float(loss)) and math.isnan(sums.loss)


def test_sums_add_up_like_one_batch() -> None:
    import torch

    from darts_async.engines.losses import loss_sum

    generator = torch.Generator().manual_seed(3)
    policy, behaviour, advantages = (torch.randn(40, generator=generator) * 0.3 for _ in range(3))
    current = torch.arange(40) % 3 == 0
    whole = loss_sum(policy, behaviour, advantages, current, LearnerSection())[1]
    parts = loss_sum(policy[:7], behaviour[:7], advantages[:7], current[:7], LearnerSection())[1]
    parts += loss_sum(policy[7:], behaviour[7:], advantages[7:], current[7:], LearnerSection())[1]
    assert parts.metrics() == pytest.approx(whole.metrics(), rel=1e-5)
    assert parts.tokens == 40
